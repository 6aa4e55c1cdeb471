"""InferenceSets become Workspaces, which the watcher has run as it does those that a person made.

What a set is to be, `tasks/contract/inference_set.py` says; here it is done. Level-triggered, as
the watcher is: each look has what there is compared with what is asked for.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from flows.watcher.surroundings import Owner, owner_of
from tasks.contract.errors import KaitoflowError, KubernetesRefused
from tasks.contract.inference_set import (
    CREATED_BY,
    answers,
    budget_of,
    changes,
    service_of,
    status_of_set,
)
from tasks.contract.units import utc_text
from tasks.platform.informer import Informer
from tasks.platform.kube_api import KubeApi
from tasks.platform.ownership import controller_uid
from tasks.platform.wire import Object, Seen, name_of

logger = logging.getLogger(__name__)

_NOT_FOUND = 404
_BESIDE = {"Service": service_of, "PodDisruptionBudget": budget_of}
# What the CRD says of each field that stays as it was.
_CANNOT_BE_CHANGED = "delete the Workspace and apply a new one"
_LOOK_FOR_CRD_S = 60.0
_TOGETHER_S = 0.3
_AGAIN_S = 5.0
# Annotations are no generation: for so long a member that was changed may be about to go silent.
_SETTLES_S = 30.0


class InferenceSets:
    """The InferenceSets of the cluster, their members, and what stands beside those."""

    def __init__(self, api: KubeApi, *, namespaces: Collection[str]) -> None:
        """Keep those of these namespaces; empty = of all."""
        self._api = api
        self._changed: set[Owner] = set()
        self._has_changed = asyncio.Event()
        self._changed_at_s: dict[Owner, float] = {}

        def informer(kind: str, *, is_set: bool = False) -> Informer:
            return Informer(
                api,
                kind,
                labels={},
                key=owner_of if is_set else _set_of,
                namespaces=namespaces,
                keep=dict if is_set else _of_member,
                on_change=self._note,
            )

        self._sets = informer("InferenceSet", is_set=True)
        # Watched as soon as there is a set: most clusters have none.
        self._members = informer("Workspace")
        self._beside = [(of, informer(kind)) for kind, of in _BESIDE.items()]

    async def keep(self) -> None:
        """Have all sets be as they ask for, for ever; a CRD that is not there is waited for."""
        while not await self._is_known():
            await asyncio.sleep(_LOOK_FOR_CRD_S)
        self._sets.begin()
        try:
            while True:
                await self._has_changed.wait()
                await asyncio.sleep(_TOGETHER_S)
                self._has_changed.clear()
                changed, self._changed = self._changed, set()
                for owner in changed:
                    await self._look_safely(owner)
        finally:
            for each in (self._sets, self._members, *(there for _, there in self._beside)):
                await each.stop()

    async def _is_known(self) -> bool:
        try:
            await self._api.find("InferenceSet")
        except KubernetesRefused as error:
            if error.status != _NOT_FOUND:
                logger.warning("inference sets cannot be seen: %s", error)
            return False
        return True

    def _note(self, owner: object) -> None:
        assert isinstance(owner, tuple)
        if owner[1]:
            self._changed.add(owner)
            self._has_changed.set()

    async def _look_safely(self, owner: Owner) -> None:
        """Look at one set; of what has failed the others learn nothing."""
        try:
            await self._look(owner)
        except KaitoflowError as error:
            logger.warning("look failed inference set=%s/%s: %s", *owner, error)
            asyncio.get_running_loop().call_later(_AGAIN_S, self._note, owner)
        except Exception:
            logger.exception("look failed inference set=%s/%s", *owner)
            asyncio.get_running_loop().call_later(_AGAIN_S, self._note, owner)

    async def _look(self, owner: Owner) -> None:
        inference_set = next(iter(self._sets.select(owner)), None)
        if inference_set is None:
            self._changed_at_s.pop(owner, None)
        if inference_set is None or "deletionTimestamp" in inference_set["metadata"]:
            return  # its members go with it: the cluster sees to that
        await asyncio.gather(self._members.start(), *(there.start() for _, there in self._beside))
        uid = inference_set["metadata"]["uid"]
        members = [each for each in self._members.select(owner) if _is_kept(each, uid)]
        todo = changes(inference_set, members)
        for name, member_uid in todo.surplus:
            await self._api.delete("Workspace", owner[0], name, uid=member_uid)
            logger.info("member removed inference set=%s/%s member=%s", *owner, name)
        wanted = self._in_time(owner, todo.have, members)
        for manifest_of, there in self._beside:
            if not any(_is_kept(each, uid) for each in there.select(owner)):
                wanted.append(manifest_of(inference_set))
        refusals = [said for each in wanted if (said := await self._have(each, uid, members))]
        told = status_of_set(
            inference_set,
            members,
            refusal="; ".join(refusals),
            now=utc_text(datetime.now(UTC)),
        )
        if told != inference_set.get("status"):
            meta = inference_set["metadata"]
            patch = {"metadata": {"uid": meta["uid"]}, "status": told}
            await self._api.merge("InferenceSet", *owner, patch, subresource="status")

    def _in_time(
        self, owner: Owner, wanted: Sequence[Object], members: Sequence[Seen]
    ) -> list[Object]:
        """Those that may be made or changed now; the others are looked at again in time."""
        answering = {name_of(each) for each in members if answers(each)}
        if not any(name_of(each) in answering for each in wanted):
            return [*wanted]
        loop = asyncio.get_running_loop()
        left_s = self._changed_at_s.get(owner, -_SETTLES_S) + _SETTLES_S - loop.time()
        if left_s > 0:
            loop.call_later(left_s, self._note, owner)
            return [each for each in wanted if name_of(each) not in answering]
        self._changed_at_s[owner] = loop.time()
        return [*wanted]

    async def _have(self, manifest: Object, uid: str, members: Sequence[Seen]) -> str:
        """Have an object as it should be; why it is not, "" = it is, or will be in a moment."""
        kind, meta = manifest["kind"], manifest["metadata"]
        found = await self._api.get(kind, meta["namespace"], meta["name"])
        if found and "deletionTimestamp" in found["metadata"]:
            return ""  # once it is gone, that is heard
        if found and controller_uid(found) != uid:
            return (
                f"{kind} {meta['name']} is somebody else's and stays as it is; rename the"
                " InferenceSet, or delete it"
            )
        try:
            await self._api.apply(manifest)
        except KubernetesRefused as error:
            if not (found and _CANNOT_BE_CHANGED in error.said):
                return f"{kind} {meta['name']} was refused: {error.said}"
            return await self._replace(found, members)
        logger.info("member applied kind=%s name=%s/%s", kind, meta["namespace"], meta["name"])
        return ""

    async def _replace(self, member: Seen, members: Sequence[Seen]) -> str:
        """Have another in the place of a member that cannot be changed, while others answer."""
        meta, others = member["metadata"], [e for e in members if name_of(e) != name_of(member)]
        if answers(member) and not any(map(answers, others)):
            return (
                f"Workspace {meta['name']} cannot be changed so, and no other answers meanwhile;"
                " raise spec.replicas or spec.updateStrategy.rollingUpdate.maxSurge, or delete it"
            )
        await self._api.delete("Workspace", meta["namespace"], meta["name"], uid=meta["uid"])
        logger.info("member replaced name=%s/%s", meta["namespace"], meta["name"])
        return ""


def _set_of(seen: Object) -> Owner:
    """The InferenceSet that something was made for; one without a name where it was for none."""
    meta = seen["metadata"]
    return meta["namespace"], meta.get("labels", {}).get(CREATED_BY, "")


def _is_kept(seen: Seen, uid: str) -> bool:
    return controller_uid(seen) == uid and "deletionTimestamp" not in seen["metadata"]


def _of_member(seen: Object) -> Object:
    """What decides of what is a set's; next to nothing of what is not."""
    meta = seen["metadata"]
    if not _set_of(seen)[1]:
        return {"metadata": {"name": name_of(seen), "creationTimestamp": meta["creationTimestamp"]}}
    kept = ("name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp")
    more = ("annotations", "ownerReferences")
    status = seen.get("status") or {}
    return {
        "metadata": {key: meta[key] for key in (*kept, *more) if key in meta},
        "status": {
            key: status[key] for key in ("observedGeneration", "conditions") if key in status
        },
    }
