"""Nodes that are made: claims in the ledger, fulfilled by somebody, followed against deadlines.

Level-triggered: each look compares what is wanted with claims and nodes as they are, does what is
missing, and keeps nothing that a crash could lose. A refused or overdue claim is given back, its
offer rests, and the next offer is tried.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import filterfalse
from typing import Any

from tasks.contract.errors import (
    CloudUnavailable,
    InsufficientQuota,
    KubernetesUnavailable,
    NodeClaimDeleted,
    NodeClaimNotReady,
    NodeLimitReached,
    NodeLost,
    NodeNotReady,
    NoOfferLeft,
    OfferUnavailable,
    is_reason,
)
from tasks.contract.held_cost import HeldMachine
from tasks.contract.news import NODE_PLUGINS_NOT_READY
from tasks.contract.workspace import ObjectMeta, Workspace
from tasks.nodes.claims.deadlines import Deadlines, overdue
from tasks.nodes.claims.heirs import heirs
from tasks.nodes.claims.ledger import Ledger, owner_uid
from tasks.nodes.claims.node_claim import (
    held_machine,
    is_as_asked,
    is_leaving,
    node_claim,
    node_name_of,
    offer_of,
    slot_of,
    state_of,
)
from tasks.nodes.claims.owners import open_nodes, own_nodes
from tasks.nodes.claims.unavailable import Refusals, UnavailableOffers
from tasks.nodes.held_gpus import HolderLister, in_the_way
from tasks.nodes.offers import Offer, offers_of
from tasks.nodes.provisioner import (
    Fulfiller,
    NodeNeed,
    ReadyNodes,
    Room,
    Waiting,
    WaitingListener,
)
from tasks.nodes.selection import Selection, select_nodes
from tasks.nodes.shared_look import SharedLook
from tasks.platform.leaving import sign_of_leaving
from tasks.platform.node_affinity import owner_labels
from tasks.platform.wire import Seen, name_of

logger = logging.getLogger(__name__)


Lister = Callable[[], Awaitable[Sequence[Seen]]]

_RELEASE_WITHIN_S = 1800.0


class ClaimingProvisioner:
    """Has nodes made by claims; see `tasks.nodes.provisioner.Provisioner`."""

    makes_nodes = True

    def __init__(
        self,
        ledger: Ledger,
        fulfiller: Fulfiller,
        unavailable: UnavailableOffers,
        *,
        list_nodes: SharedLook[Seen],
        list_holders: HolderLister,
        list_workspaces: Lister,
        deadlines: Deadlines,
        max_nodes: int,
        node_class: str = "",
        room: Room | None = None,
    ) -> None:
        """Claim at most `max_nodes` for all Workspaces together, which bounds any mistake.

        Args: node_class: see `node_claim`. room: None = nobody says what the cloud has room for.
        """
        self._room, self._one_claims = room, asyncio.Lock()
        self._node_class = node_class
        self._ledger, self._fulfiller, self._unavailable = ledger, fulfiller, unavailable
        self._list_nodes, self._list_workspaces = list_nodes, list_workspaces
        self._list_holders = list_holders
        self._deadlines, self._max_nodes = deadlines, max_nodes
        self._began = datetime.now(UTC)

    async def ensure_nodes(
        self, workspace: Workspace, need: NodeNeed, *, on_waiting: WaitingListener
    ) -> ReadyNodes:
        """Return as many ready nodes as are asked for; claims those that are missing.

        Raises: NoOfferLeft: none could be had for as long as one may wait. CloudDenied.
        InstanceTypeMissing.
        """
        meta, offers, claimed = workspace.metadata, offers_of(workspace), dict[str, Offer]()
        own = owner_labels(meta)
        need = replace(need, labels=need.labels or own)  # else any node of the cluster would do
        told: Waiting | None = None
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._deadlines.capacity_s
        while True:
            try:
                found = await self._look(workspace, need, offers, claimed)
            except (CloudUnavailable, KubernetesUnavailable) as error:
                found = Waiting(reason=error.reason, message=str(error), are_claims_ready=False)
            if isinstance(found, ReadyNodes):
                return found
            if found != told:
                told = found
                logger.info("waiting for nodes workspace=%s: %s", workspace, found.message)
                await on_waiting(found)
            if clock() > deadline:
                raise NoOfferLeft(
                    found.message,
                    f"waited {self._deadlines.capacity_s:.0f} s",
                    "let it wait longer by KAITOFLOW_CAPACITY_WAIT_S",
                )
            await asyncio.sleep(self._deadlines.look_again_s)

    async def _look(
        self,
        workspace: Workspace,
        need: NodeNeed,
        offers: Sequence[Offer],
        claimed: dict[str, Offer],
    ) -> ReadyNodes | Waiting:
        """One comparison of what is wanted with what is there.

        Args: claimed: the claims seen at the look before that were no node yet; kept up to date.
        """
        meta, all_claims = workspace.metadata, await self._ledger.claims()
        claims = [claim for claim in all_claims if owner_uid(claim) == meta.uid]
        await self._ledger.let_go(claims, self._fulfiller)
        nodes, holders = await self._nodes_of(claims), await self._list_holders()
        others = in_the_way(holders, workspace, need)
        own, may_use = own_nodes(nodes, meta), open_nodes(nodes, all_claims, meta)
        selection = select_nodes(need, may_use, others, preferred=own)
        used = {node.name for node in selection.nodes}
        there = set(map(name_of, nodes))
        going = {name_of(node): sign for node in nodes if (sign := sign_of_leaving(node))}
        if selection.is_enough:
            for claim in claims:
                await self._is_coming(claim, there)  # so that each claim says which node it became
            if (used & own) - set(map(node_name_of, claims)):
                claims = await self._now(meta)
            if not (used & own) - set(map(node_name_of, claims)):
                await self._give_back_unneeded(claims, going=going)
            return ReadyNodes(
                nodes=selection.nodes,
                detail=selection.detail,
                are_claimed=True,
                machines=_held(claims),
            )
        await self._notice_vanished(claims, claimed)
        outdated = [claim for claim in claims if not is_as_asked(claim, workspace, offers)]
        await self._give_back_unneeded(outdated)
        # The claim of a node that is about to go stays until that, and another is made beside it.
        of_no_use = {*used, *going}
        waiting = [c for c in claims if node_name_of(c) not in of_no_use and c not in outdated]
        coming = [
            claim
            for claim in waiting
            if await self._is_coming(claim, there) and node_name_of(claim) not in selection.in_use
        ]
        claimed.clear()
        claimed.update(
            {name_of(claim): offer_of(claim) for claim in coming if not state_of(claim).registered}
        )
        missing = need.nodes - len(selection.nodes) - len(coming)
        # One more beside each that is in use, and not one more each time that one comes into use.
        has_room = sum(not is_leaving(claim) for claim in claims) < 2 * need.nodes
        if missing > 0 and has_room:
            taken = {slot_of(claim) for claim in claims}  # also of those that are on their way back
            slots = [slot for slot in range(need.nodes + len(taken)) if slot not in taken]
            told = await self._claim(workspace, need, offers, claimed, slots=slots[:missing])
        else:
            told = _waiting_for(need, coming, selection)
        launched = [
            each for each in claims if state_of(each).launched
        ]  # nobody pays for the others
        told = replace(told, machines=_held(launched))
        lost = [node for node in map(node_name_of, claims) if node in going]
        return _with_lost(told, lost[0], going[lost[0]]) if lost else told

    async def _now(self, meta: ObjectMeta) -> list[dict[str, Any]]:
        """The Workspace's claims with what has just been told of them."""
        return [claim for claim in await self._ledger.look() if owner_uid(claim) == meta.uid]

    async def _nodes_of(self, claims: Sequence[Seen]) -> Sequence[Seen]:
        """The cluster's nodes, looked at after these claims if a node of theirs is missing.

        What others have seen a moment ago may lack one that has just joined: it is not lost.
        """
        joined = {
            node_name_of(each)
            for each in claims
            if state_of(each).registered and not is_leaving(each)
        }
        nodes = await self._list_nodes()
        if joined <= set(map(name_of, nodes)):
            return nodes
        self._list_nodes.forget()
        return await self._list_nodes()

    async def _give_back_unneeded(
        self, claims: Sequence[Seen], *, going: Collection[str] = ()
    ) -> None:
        """Ask no more for machines that have not joined, when there are nodes enough.

        Args: going: nodes that are about to be taken away; their machines go back as well.
        """
        for claim in claims:
            has_node = state_of(claim).registered and node_name_of(claim) not in going
            if not (has_node or is_leaving(claim)):
                await self._ledger.give_back(claim)

    async def _is_coming(self, claim: Seen, there: Collection[str]) -> bool:
        """Whether a claim may still become a node; one that may not is given back.

        Args: there: names of the nodes that the cluster has.
        """
        if is_leaving(claim):
            return False
        if state_of(claim).registered and node_name_of(claim) not in there:
            logger.warning("node lost claim=%s node=%s", name_of(claim), node_name_of(claim))
            await self._ledger.give_back(claim)
            return False
        now = datetime.now(UTC)
        error = overdue(claim, self._deadlines, now=now, watched_since=self._began)
        if error is None:
            try:
                await self._fulfiller.advance(claim)
            except OfferUnavailable as refused:
                error = refused
            else:
                return True
        logger.warning("claim failed claim=%s: %s", claim["metadata"]["name"], error)
        await self._unavailable.remember(offer_of(claim), error, claim=claim)
        await self._ledger.give_back(claim)
        return False

    async def _notice_vanished(self, claims: Sequence[Seen], claimed: dict[str, Offer]) -> None:
        """A claim that its fulfiller deleted could not be had: it is not claimed in a loop.

        Where we fulfil claims ourselves nobody deletes one for that: a person has given it back, or
        a stop that was still at work. The latter is known of this process only.
        """
        if self._fulfiller.finalizers:
            return
        there = {name_of(claim) for claim in claims if not is_leaving(claim)}
        for name in filterfalse(self._ledger.has_given_back, claimed.keys() - there):
            error = NodeClaimDeleted(
                f"a node was claimed ({claimed[name]})",
                f"somebody else has deleted claim {name} before it became one",
                "see the log and the events of who makes the nodes for the reason",
            )
            await self._unavailable.remember(claimed[name], error)

    async def _claim(
        self,
        workspace: Workspace,
        need: NodeNeed,
        offers: Sequence[Offer],
        claimed: dict[str, Offer],
        *,
        slots: Sequence[int],
    ) -> Waiting:
        """Claim the first offer that is to be had, for each slot; or tell when one may be."""
        gone = await self._unavailable.look(workspace_uid=workspace.metadata.uid)
        left = [each for each in offers if each not in gone.over]
        if not left:
            raise NoOfferLeft(
                _asked(need, offers[0]),
                f"{gone.over[offers[0]].message}; after two such machines no third is bought",
                f"have Kubernetes count their GPUs, then forget it: {self._unavailable.forgetting}",
            )
        free = [each for each in left if each not in gone.resting]
        if not free:
            return _nothing_left(need, {each: gone.resting[each] for each in left})
        async with self._one_claims:  # what another run is about to claim is claimed by then
            claims = await self._ledger.claims()
            if len(claims) + len(slots) > self._max_nodes:
                return Waiting(
                    reason=NodeLimitReached.__name__,
                    message=f"{_asked(need, free[0])}; {len(claims)} nodes are claimed already, of "
                    f"at most {self._max_nodes}; delete Workspaces, or raise KAITOFLOW_MAX_NODES",
                    are_claims_ready=False,
                    is_in_vain=True,
                )
            offer, lacks = await self._first_with_room(free, len(slots), claims)
            if offer is None:
                return _no_room(need, lacks)
            for slot in slots:
                claim = node_claim(
                    workspace,
                    offer,
                    slot=slot,
                    disk_gib=need.disk_gib,
                    finalizers=self._fulfiller.finalizers,
                    node_class=self._node_class,
                )
                if await self._ledger.want(claim):
                    claimed[name_of(claim)] = offer
        return Waiting(
            reason=NodeClaimNotReady.__name__,
            message=f"{_asked(need, offer)}; it is claimed; wait for the machine",
            are_claims_ready=False,
        )

    async def _first_with_room(
        self, offers: Sequence[Offer], count: int, claims: Sequence[Seen]
    ) -> tuple[Offer | None, Mapping[Offer, str]]:
        """The first offer that the cloud has room for; and why it has none for those before."""
        lacks: dict[Offer, str] = {}
        for offer in offers:
            lack = await self._room.lack(offer, count, claims) if self._room else ""
            if not lack:
                return offer, lacks
            lacks[offer] = lack
        return None, lacks

    async def release(
        self, workspace: Workspace, *, is_final: bool = True, keep: Collection[str] = ()
    ) -> tuple[HeldMachine, ...]:
        """Give claims of the Workspace back; what it still holds once their machines are gone.

        One whose node another Workspace still runs on becomes that Workspace's.
        Args: is_final, keep: see `Provisioner`.
        Raises: CloudUnavailable: a machine is still there after half an hour. CloudDenied.
        """
        meta = workspace.metadata
        deadline = asyncio.get_running_loop().time() + _RELEASE_WITHIN_S
        claims = await self._left_of(meta, keep=keep)
        there = None if is_final else {claim["metadata"]["uid"] for claim in claims}
        while claims:
            others = heirs(
                await self._list_workspaces(),
                but_uid=meta.uid,
                claims=await self._ledger.claims(),
            )
            for claim in claims:
                heir = others.get(node_name_of(claim))
                if heir and not is_leaving(claim):
                    await self._ledger.hand_over(claim, heir)
                elif not is_leaving(claim):
                    await self._ledger.give_back(claim)
            await self._ledger.let_go(claims, self._fulfiller)
            if asyncio.get_running_loop().time() > deadline:
                names = ", ".join(map(name_of, claims))
                raise CloudUnavailable(
                    f"the nodes of workspace {workspace.metadata} were given back",
                    f"after {_RELEASE_WITHIN_S:.0f} s there is still {names}",
                    "see `kubectl describe nodeclaim`, and the cloud's portal",
                )
            await asyncio.sleep(min(self._deadlines.look_again_s, 1.0))
            claims = await self._left_of(meta, among=there, keep=keep)
        # Also one whose node is kept and that does not say yet which it has become: it costs.
        return _held(await self._ledger.claims_of(meta))

    async def held(self, workspace: Workspace) -> tuple[HeldMachine, ...]:
        """The machines of the Workspace, each with the node that it has become."""
        return _held(await self._now(workspace.metadata))

    async def _left_of(
        self, meta: ObjectMeta, *, among: Collection[str] | None = None, keep: Collection[str]
    ) -> list[dict[str, Any]]:
        """The Workspace's claims that are ours to bring to their end.

        Args: among: only claims of these uids. keep: nodes whose claims stay.
        """
        claims = await self._ledger.claims_of(meta)
        left = [
            claim
            for claim in claims
            if (among is None or claim["metadata"]["uid"] in among)
            and (is_leaving(claim) or node_name_of(claim) not in keep)
            and (self._fulfiller.finalizers or not is_leaving(claim))
        ]
        kept = own_nodes(await self._list_nodes(), meta) & set(keep) if left and keep else set()
        if kept - set(
            map(node_name_of, claims)
        ):  # one of the others has become it, and says so yet
            return [claim for claim in left if is_leaving(claim) or state_of(claim).registered]
        return left


def _held(claims: Sequence[Seen]) -> tuple[HeldMachine, ...]:
    """The machines of those claims that are not on their way back."""
    return tuple(held_machine(claim) for claim in claims if not is_leaving(claim))


def _asked(need: NodeNeed, offer: Offer) -> str:
    return f"{need.nodes} node{'s' if need.nodes > 1 else ''} of {offer} asked for"


def _nothing_left(need: NodeNeed, resting: Mapping[Offer, Refusals]) -> Waiting:
    """Why no offer is to be had, and when the first is tried again."""
    first = min(resting.values(), key=lambda refusals: refusals.rests_until)
    why = "; ".join(f"{offer}: {refusals.message}" for offer, refusals in resting.items())
    offers = ", ".join(map(str, resting))
    return Waiting(
        reason=next(iter(resting.values())).reason,
        message=f"{need.nodes} node(s) of {offers} asked for; {why}; tried again at "
        f"{first.rests_until:%H:%M} UTC; other instance types may be named by annotation "
        "kaitoflow.io/instance-types",
        are_claims_ready=False,
        is_in_vain=True,
    )


def _no_room(need: NodeNeed, lacks: Mapping[Offer, str]) -> Waiting:
    """That nothing is claimed before the cloud's quota has room for it."""
    return Waiting(
        reason=InsufficientQuota.__name__,
        message=f"{need.nodes} node(s) of {', '.join(map(str, lacks))} asked for; waits for quota: "
        f"{'; '.join(dict.fromkeys(lacks.values()))}; ask the cloud for more, or name other "
        "instance types by annotation kaitoflow.io/instance-types",
        are_claims_ready=False,
        is_in_vain=True,
    )


def _with_lost(waiting: Waiting, node: str, sign: str) -> Waiting:
    """What is waited for, and that it takes the place of a node that is about to be taken away."""
    message = f"node {node} is taken away soon ({sign}); {waiting.message}"
    return replace(waiting, reason=NodeLost.__name__, message=message)


def _waiting_for(need: NodeNeed, coming: Sequence[Seen], selection: Selection) -> Waiting:
    """What the slowest claim waits for; of claims that are done, what their nodes lack."""
    behind = [claim for claim in coming if not state_of(claim).initialized]
    if not behind:
        reason = NODE_PLUGINS_NOT_READY if selection.lacks_plugin else NodeNotReady.__name__
        return Waiting(reason=reason, message=selection.message, are_claims_ready=True)
    claim = behind[0]
    state, offer = state_of(claim), offer_of(claim)
    found = f"claim {claim['metadata']['name']} is {_stage(claim)}"
    said = f" ({state.reason}: {state.message})" if state.message else ""
    return Waiting(
        # Whoever makes the node has words of his own, which stand in the message.
        reason=state.reason if is_reason(state.reason) else NodeClaimNotReady.__name__,
        message=f"{_asked(need, offer)}; {found}{said}; wait, or see `kubectl describe nodeclaim "
        f"{claim['metadata']['name']}`",
        are_claims_ready=False,
    )


def _stage(claim: Seen) -> str:
    state = state_of(claim)
    if state.registered:
        return "registered and not initialized yet"
    return "launched and not registered yet" if state.launched else "not launched yet"
