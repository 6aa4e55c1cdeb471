"""Step `provision`: a node that the Workspace's pods can run on; kept, and given back."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.contract.artifacts import Node
from tasks.contract.errors import InvalidPriceTable, KaitoflowError, NodeLost, NoOfferLeft
from tasks.contract.held_cost import HeldMachine
from tasks.contract.status import NOT_ASKED, ConditionType, WorkspaceStatus
from tasks.contract.steps import StepName
from tasks.contract.units import utc_moment
from tasks.contract.words import acted_on
from tasks.contract.workspace import Workspace
from tasks.nodes.current import current_provisioner
from tasks.nodes.need import need_of
from tasks.nodes.offers import CapacityType
from tasks.nodes.provisioner import NodeNeed, ReadyNodes, Waiting
from tasks.platform.current import current_platform
from tasks.settings import settings
from tasks.skus.prices import price_table
from tasks.steps import change_status, recorded_step

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 15.0
# Azure tells half a minute ahead, in which a checkpoint is to be written and sent.
_SIGNS_EVERY_S = 5.0
# What a look at the nodes sees is shared, and may be so old.
_LOOKS_ARE_FRESH_S = 1.0
_EDITS_EVERY_S = 5.0
# The sums of a cost are for who reads a status as it is; each time they cost a write.
_SUM_AGAIN = timedelta(minutes=5)


@task(
    name=StepName.PROVISION.value,
    task_run_name=f"{StepName.PROVISION} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def provision_node(
    workspace: Workspace,
    *,
    memory_gib: float | None = None,
    server_ends: bool = True,
    is_candidate: bool = False,
    waits: bool = True,
) -> Node:
    """The node for the Workspace; on the local platform this machine.

    Args: memory_gib: the plan's estimate of the peak. server_ends, is_candidate: see `NodeNeed`.
    waits: False = not for the clouds to have one again, once all offers were refused.
    Raises: NodeNotReady: none that fits was there in time. NoOfferLeft.
    """

    async def ensure(workspace: Workspace) -> ReadyNodes:
        need = need_of(
            workspace, memory_gib=memory_gib, server_ends=server_ends, is_candidate=is_candidate
        )
        return await _ensure(workspace, need, waits=waits)

    async with recorded_step(workspace, StepName.PROVISION) as step:
        ready = await _heeding_edits(workspace, ensure)
        step.detail = ready.detail
        return ready.as_one


async def _heeding_edits(
    workspace: Workspace, ensure: Callable[[Workspace], Coroutine[Any, Any, ReadyNodes]]
) -> ReadyNodes:
    """The nodes, asked for anew each time that the Workspace's annotations are edited meanwhile.

    What a person is told to annotate while nothing is to be had so helps at once.
    """
    platform = current_platform()
    while True:
        ensuring = asyncio.create_task(ensure(workspace), name=f"nodes of {workspace}")
        try:
            edited = workspace
            while edited == workspace:
                done, _ = await asyncio.wait({ensuring}, timeout=_EDITS_EVERY_S)
                if done:
                    return ensuring.result()
                edited = await platform.as_it_is(workspace)
            workspace = edited
        finally:
            ensuring.cancel()
            await asyncio.gather(ensuring, return_exceptions=True)


async def as_edited(workspace: Workspace) -> Workspace:
    """The Workspace with the annotations that were edited while it waited for its node.

    Whether it is served is for the next run to heed, which begins when this one has ended.
    """
    edited = await current_platform().as_it_is(workspace)
    if edited == workspace or edited.is_served != workspace.is_served:
        return workspace

    def act(status: WorkspaceStatus) -> None:
        status.acted_on = acted_on(edited)

    await change_status(edited, act)
    return edited


async def _ensure(workspace: Workspace, need: NodeNeed, *, waits: bool = True) -> ReadyNodes:
    async def wait(waiting: Waiting) -> None:
        await change_status(workspace, lambda status: _not_ready(status, need, waiting))
        if waiting.is_in_vain and not waits:
            raise NoOfferLeft(waiting.message, "nothing is waited for", "pause the server instead")

    ready = await current_provisioner().ensure_nodes(workspace, need, on_waiting=wait)
    await change_status(workspace, lambda status: _ready(status, need, ready))
    return ready


@contextlib.asynccontextmanager
async def kept_nodes(
    workspace: Workspace,
    *,
    memory_gib: float | None,
    server_ends: bool = True,
    is_candidate: bool = False,
) -> AsyncIterator[None]:
    """While the context lasts, a node that is lost is claimed again, so that its pods go on.

    So is one of what serves beside them. What is trained leaves a node that is about to be taken
    away, and where nodes are made the next one is claimed before that.
    """
    need = need_of(
        workspace, memory_gib=memory_gib, server_ends=server_ends, is_candidate=is_candidate
    )
    left, name = asyncio.Event(), f"nodes of {workspace}"
    keepers = [asyncio.create_task(_leave(workspace, left), name=f"leaving {name}")]
    if current_provisioner().makes_nodes:
        keepers.append(asyncio.create_task(_keep(workspace, need, left), name=name))
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


async def _leave(workspace: Workspace, left: asyncio.Event) -> None:
    """Set the event whenever something has left a node, which is told.

    Each is left once: a pod that comes back to one that stays after all is not evicted for ever.
    """
    platform, before = current_platform(), set[str]()
    while True:
        await asyncio.sleep(_SIGNS_EVERY_S)
        try:
            for node, sign in (await platform.leave_nodes(workspace, but=before)).items():
                before.add(node)
                message = (
                    f"node {node} is taken away soon ({sign}): its pod was asked to end with a "
                    "checkpoint, from which the next one goes on"
                )
                await platform.record_event(
                    workspace, reason=NodeLost.__name__, message=message, is_warning=True
                )
                logger.warning("workspace=%s: %s", workspace, message)
                await asyncio.sleep(_LOOKS_ARE_FRESH_S)
                left.set()
        except KaitoflowError as error:
            logger.warning("nodes not left workspace=%s: %s", workspace, error)


async def _keep(workspace: Workspace, need: NodeNeed, left: asyncio.Event) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(left.wait(), _LOOK_AGAIN_S)
        left.clear()
        for ensure in (_keep_server, partial(_ensure, need=need)):
            try:
                # One after the other: each would give back what the other has claimed and not got.
                await ensure(workspace)
            except KaitoflowError as error:
                logger.warning("nodes not kept workspace=%s: %s", workspace, error)


async def _keep_server(workspace: Workspace) -> None:
    """Have a node for what serves beside the run, if it answers no more."""
    platform = current_platform()
    status = await platform.read_status(workspace)
    answers = status.is_true(ConditionType.INFERENCE_READY)
    if answers or not status.serves_beside or status.is_server_paused:
        return
    served = await platform.restore_server(workspace)
    if served is None:
        return

    async def wait(waiting: Waiting) -> None:
        await change_status(workspace, partial(_server_waits, waiting=waiting))
        if waiting.is_in_vain:
            raise NoOfferLeft(waiting.message, "its next look comes soon", "name other machines")

    ready = await current_provisioner().ensure_nodes(served, need_of(served), on_waiting=wait)
    await change_status(workspace, partial(_server_has_node, ready=ready))


async def keep_server_nodes(workspace: Workspace) -> frozenset[str]:
    """The nodes on which the Workspace's server runs, which its status names from now on, alone.

    To be told before a run has ended: whatever else goes back after that is missed by nobody. A
    server that answers, of this generation or of the one before, is not taken down by a run that
    was refused, or failed, beside it.
    """
    platform = current_platform()
    status = await platform.read_status(workspace)
    made_in = status.server_generation
    seen = None if made_in is None else await platform.server_nodes(workspace, made_in)
    keep = nodes_of_server(status, seen)
    if not keep:
        return keep
    machines = await _held_now(workspace)

    def change(status: WorkspaceStatus) -> None:
        if machines is not None:
            _hold(status, machines)
        _only_server(status, keep)

    await change_status(workspace, change)
    return keep


async def _held_now(workspace: Workspace) -> tuple[HeldMachine, ...] | None:
    """The machines made for the Workspace, which say by now which nodes they are.

    Else one that goes back would pass for one of the server's. None = nobody makes any, or tells.
    """
    provisioner = current_provisioner()
    try:
        return await provisioner.held(workspace) if provisioner.makes_nodes else None
    except KaitoflowError as error:
        logger.warning("machines not seen workspace=%s: %s", workspace, error)
        return None


def nodes_of_server(status: WorkspaceStatus, seen: Collection[str] | None) -> frozenset[str]:
    """The nodes without which what serves would serve no more.

    Args: seen: on which its pods are; None when it has none any more. As long as some are on their
    way to a node, all of the Workspace's may be theirs.
    """
    if status.served_generation is None or seen is None:
        return frozenset()
    are_all_there = len(seen) >= (status.target_node_count or 1)
    return frozenset(seen if are_all_there else {*seen, *status.worker_nodes})


async def give_back_nodes(workspace: Workspace, *, keep: frozenset[str] = frozenset()) -> None:
    """No node of the Workspace's own is left but those; what cannot be done now is told.

    A claim stays until its machine is gone, and the Workspace does not go before its claims.
    """
    if not current_provisioner().makes_nodes:
        return
    try:
        kept = await current_provisioner().release(workspace, is_final=False, keep=keep)
    except KaitoflowError as error:
        logger.warning("nodes not given back yet workspace=%s: %s", workspace, error)
        return

    def change(status: WorkspaceStatus) -> None:
        _hold(status, kept)
        status.worker_nodes = sorted(keep)
        if not keep:
            message = "its nodes were given back; run the Workspace again to have it served"
            status.server_ended(reason="Stopped", message=message)

    await change_status(workspace, change)


def _not_ready(status: WorkspaceStatus, need: NodeNeed, waiting: Waiting) -> None:
    status.target_node_count = need.nodes
    if status.progress.step_name == StepName.PROVISION:
        status.progress.phase = waiting.message
    kinds = [ConditionType.NODES_READY, ConditionType.RESOURCE_READY]
    if waiting.are_claims_ready is False:
        kinds.insert(0, ConditionType.NODE_CLAIM_READY)
    if waiting.machines is not None:
        _hold(status, waiting.machines)
    if status.serves_beside:
        # What serves has its nodes, whatever is waited for beside it.
        is_tuned_first = status.serves_older and not need.server_ends
        kinds = [ConditionType.JOB_STARTED] if is_tuned_first else []
    elif waiting.are_claims_ready:
        status.claims_are_ready()
    elif waiting.are_claims_ready is None:
        _no_claims(status)
    for kind in kinds:
        status.set_condition(kind, status="False", reason=waiting.reason, message=waiting.message)


def _ready(status: WorkspaceStatus, need: NodeNeed, ready: ReadyNodes) -> None:
    status.target_node_count = need.nodes
    used = {node.name for node in ready.nodes}
    if ready.are_claimed:
        _hold(status, ready.machines)
    if status.serves_beside:
        status.worker_nodes = sorted(used | set(status.worker_nodes))
        return
    status.worker_nodes = sorted(used)
    if ready.are_claimed:
        status.claims_are_ready()
    else:
        _no_claims(status)
    status.nodes_are_ready(ready.detail)


def _only_server(status: WorkspaceStatus, nodes: Collection[str]) -> None:
    """Say of the nodes what is true once only a server runs on them."""
    status.worker_nodes = sorted(nodes)
    found = status.condition(ConditionType.RESOURCE_READY)
    if found and found.observed_generation != status.served_generation:
        status.nodes_are_ready(f"{', '.join(status.worker_nodes)}: the server runs there")


def _server_waits(status: WorkspaceStatus, waiting: Waiting) -> None:
    """Say what keeps what an older generation serves from its nodes."""
    if waiting.machines is not None:
        _hold(status, waiting.machines)
    for kind in (ConditionType.NODES_READY, ConditionType.RESOURCE_READY):
        status.set_condition(
            kind,
            status="False",
            reason=waiting.reason,
            message=waiting.message,
            generation=status.served_generation,
        )


def _server_has_node(status: WorkspaceStatus, ready: ReadyNodes) -> None:
    _hold(status, ready.machines)
    status.worker_nodes = sorted({*status.worker_nodes, *(node.name for node in ready.nodes)})
    status.nodes_are_ready(ready.detail)


def _hold(status: WorkspaceStatus, machines: Iterable[HeldMachine]) -> None:
    """Note which machines are held now, and what they have cost so far."""
    now = datetime.now(UTC)
    cost = status.cost.holding([_with_price(machine) for machine in machines], now)
    is_old = not status.cost.as_of or now - utc_moment(status.cost.as_of) > _SUM_AGAIN
    if is_old or cost.machines != status.cost.machines:
        status.cost = cost


def _with_price(machine: HeldMachine) -> HeldMachine:
    kind = cast("CapacityType", machine.capacity_type)
    try:
        price = price_table(settings().price_table).price_per_hour(machine.instance_type, kind)
    except InvalidPriceTable as error:
        logger.warning("price not known instance_type=%s: %s", machine.instance_type, error)
        price = None
    return machine.model_copy(update={"price_per_hour": price})


def _no_claims(status: WorkspaceStatus) -> None:
    status.set_condition(
        ConditionType.NODE_CLAIM_READY,
        status="False",
        reason=NOT_ASKED,
        message="no node is claimed: those that are there are used",
    )
