"""What the cluster has of each Workspace, kept current by watches: nothing is asked for twice.

Of most objects only the metadata is heard, and of all of them only what is compared is remembered.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flows.watcher.owned import Around, Departure
from tasks.contract.errors import (
    NodeNotReady,
    PodForbidden,
    QuotaExceeded,
    Unschedulable,
    VolumeMountFailed,
    VolumeUnusable,
)
from tasks.contract.quantity import parse_quantity
from tasks.contract.status import State
from tasks.contract.steps import INFERENCE
from tasks.nodes.claims.ledger import owner_uid
from tasks.nodes.claims.node_claim import CLAIM
from tasks.platform.informer import Informer
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import MANAGED_BY, POD_LABEL, WORKSPACE_LABEL
from tasks.platform.node_affinity import OWNER_LABEL, OWNER_NAMESPACE_LABEL
from tasks.platform.ownership import controller_uid, fields_digest
from tasks.platform.served_revision import REVISION
from tasks.platform.wire import Object, Seen, condition, name_of

MADE_KINDS = ("ConfigMap", "Service", "StatefulSet", REVISION)
_SERVER_LABELS = MANAGED_BY | {POD_LABEL: INFERENCE}
# What a Workspace that has failed for one of these reasons waits for.
_OF_NODES = {each.__name__ for each in (NodeNotReady, Unschedulable)}
_OF_VOLUMES = {each.__name__ for each in (VolumeUnusable, VolumeMountFailed)}
_OF_RULES = {each.__name__ for each in (QuotaExceeded, PodForbidden)}
_SETTLED = {each for each in State if each.is_settled}
_CLAIM, _QUOTA, _LIMITS = "PersistentVolumeClaim", "ResourceQuota", "LimitRange"
# How something is that is waited for: its version, or of each resource how much is left.
Standing = str | Mapping[str, float]
Owner = tuple[str, str]
"""Namespace and name of a Workspace."""


class Surroundings:
    """The objects, server pods, claims and nodes of all Workspaces."""

    def __init__(
        self,
        api: KubeApi,
        *,
        namespaces: Collection[str],
        has_claims: bool,
        on_change: Callable[[Owner], None],
    ) -> None:
        """Tell `on_change` whose surroundings have changed.

        Args:
            namespaces: of the Workspaces; empty = all.
            has_claims: whether nodes are made for Workspaces here.
        """
        self._api, self._on_change = api, on_change
        self._named: dict[Owner, tuple[str, dict[str, Standing]]] = {}
        self._begun_with: dict[Owner, dict[str, Standing]] = {}
        self._users: dict[str, set[Owner]] = defaultdict(set)
        self._used: dict[Owner, frozenset[str]] = {}
        self._node_changes = 0
        self._made = {
            kind: Informer(
                api,
                kind,
                # Others' ConfigMaps too: a Workspace names one.
                labels={} if kind == "ConfigMap" else MANAGED_BY,
                key=_owner,
                namespaces=namespaces,
                keep=_of_made,
                metadata_only=True,
                on_change=self._tell,
            )
            for kind in MADE_KINDS
        }
        self._waited_for = {
            kind: Informer(
                api,
                kind,
                labels={},
                key=_namespace,
                namespaces=namespaces,
                keep=_of_quota if kind == _QUOTA else _of_others,
                metadata_only=kind != _QUOTA,
                on_change=self._tell_failed,
            )
            for kind in (_CLAIM, _QUOTA, _LIMITS)
        }
        self._pods = Informer(
            api,
            "Pod",
            labels=_SERVER_LABELS,
            key=_owner,
            namespaces=namespaces,
            on_change=self._tell,
        )
        self._nodes = Informer(
            api, "Node", labels={}, key=name_of, keep=_of_node, on_change=self._tell_users
        )
        self._claims = (
            Informer(
                api,
                CLAIM,
                labels=MANAGED_BY,
                key=_claimant,
                keep=_of_claim,
                metadata_only=True,
                on_change=self._tell,
            )
            if has_claims
            else None
        )

    def begin(self) -> None:
        """Begin to watch; what is not known yet is told as such."""
        for each in self._all():
            each.begin()

    async def stop(self) -> None:
        """End the watches."""
        await asyncio.gather(*(each.stop() for each in self._all()))

    def _all(self) -> Iterable[Informer]:
        yield from (*self._made.values(), *self._waited_for.values(), self._pods, self._nodes)
        if self._claims:
            yield self._claims

    def of(self, manifest: Seen) -> Around:
        """What there is of a Workspace now."""
        pods = self._pods.select(owner_of(manifest)) if self._pods.is_synced else None
        return self._with(manifest, pods)

    def _with(self, manifest: Seen, pods: Sequence[Seen] | None) -> Around:
        owner, uid = owner_of(manifest), manifest["metadata"]["uid"]
        self._note_used(owner, manifest, pods or ())
        return Around(
            objects=self._objects_of(owner, uid),
            pods=pods,
            nodes=self._nodes_of(owner),
            claims=self._claims_of(owner, uid),
            changed=self._changed_since_failure(owner, manifest),
        )

    async def asked(self, manifest: Seen, gone: Sequence[Departure]) -> Around:
        """The same, with pods and what seems to have left as the API server has it now.

        A watch may have died without a word, and be some time behind.
        """
        owner, uid = owner_of(manifest), manifest["metadata"]["uid"]
        pods = await self._pods_now(owner) if self._pods.is_synced else None
        around = self._with(manifest, pods)
        unseen = self._used[owner] - (around.nodes or {}).keys()
        unseen |= {each.name for each in gone if each.kind == "Node"}
        nodes = {name: await self._now("Node", name) for name in unseen}
        objects, claims = dict[Any, Any](), dict[Any, Any]()
        for each in gone:
            if each.kind == "Node":
                continue
            if each.kind == CLAIM:
                found = await self._now(CLAIM, each.name)
                claims[each.name] = found if found and owner_uid(found) == uid else None
            else:
                found = await self._now(each.kind, each.name, owner[0])
                is_own = found is not None and _is_kept(found, uid)
                objects[each.kind, each.name] = fields_digest(found) if found and is_own else None
        return replace(
            around,
            objects=_corrected(around.objects, objects),
            nodes=_corrected(around.nodes, nodes),
            claims=_corrected(around.claims, claims),
        )

    async def _pods_now(self, owner: Owner) -> list[Object]:
        labels = _SERVER_LABELS | {WORKSPACE_LABEL: owner[1]}
        found, _ = await self._api.find_with_version("Pod", owner[0], labels=labels)
        return found

    async def _now(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        found, _ = await self._api.find_with_version(
            kind,
            namespace,
            labels=None,
            fields={"metadata.name": name},
            metadata_only=kind != "Node",
        )
        return next((each for each in found if name_of(each) == name), None)

    def forget(self, owner: Owner) -> None:
        """A Workspace is gone."""
        self._named.pop(owner, None)
        self._begun_with.pop(owner, None)
        for name in self._used.pop(owner, ()):
            self._users[name].discard(owner)

    def _objects_of(self, owner: Owner, uid: str) -> dict[tuple[str, str], str] | None:
        if not all(each.is_synced for each in self._made.values()):
            return None
        return {
            (kind, name_of(each)): each["digest"]
            for kind, informer in self._made.items()
            for each in informer.select(owner)
            if _is_kept(each, uid)
        }

    def _nodes_of(self, owner: Owner) -> dict[str, Seen] | None:
        if not self._nodes.is_synced:
            return None
        return {name: node for name in self._used[owner] for node in self._nodes.select(name)}

    def _claims_of(self, owner: Owner, uid: str) -> dict[str, Seen] | None:
        if self._claims is None or not self._claims.is_synced:
            return None
        return {
            name_of(each): each for each in self._claims.select(owner) if owner_uid(each) == uid
        }

    def _changed_since_failure(self, owner: Owner, manifest: Seen) -> list[str]:
        """What the Workspace names, and that is another one than when its run had just failed.

        ConfigMaps: than when it had begun, since they may be corrected before its end is heard of.
        """
        status = manifest.get("status") or {}
        state = status.get("state")
        if not self._made["ConfigMap"].is_synced:
            self._named.pop(owner, None)
            return []
        config_maps: dict[str, Standing] = {
            f"ConfigMap {name}": self._version_of(owner[0], name) for name in _config_maps(manifest)
        }
        if state != State.FAILED:
            self._named.pop(owner, None)
            if state in _SETTLED:
                self._begun_with.pop(owner, None)
            else:
                there = {name: version for name, version in config_maps.items() if version}
                self._begun_with.setdefault(owner, there)
            return []
        reasons = {str(each.get("reason")) for each in status.get("conditions") or ()}
        about = (status.get("observedGeneration"), status.get("attempt"), *sorted(reasons))
        run = " ".join(map(str, about))
        named = dict(config_maps)
        if reasons & _OF_NODES:
            named["the cluster's nodes"] = str(self._node_changes)
        if reasons & _OF_VOLUMES:
            versions = self._others(_CLAIM, owner[0])
            named |= {f"{_CLAIM} {n}": versions.get(n, "") for n in {*_claim_names(manifest)}}
        if reasons & _OF_RULES:
            for kind in (_QUOTA, _LIMITS):
                named |= {f"{kind} {n}": how for n, how in self._others(kind, owner[0]).items()}
        if owner not in self._named or self._named[owner][0] != run:
            begun_with = self._begun_with.pop(owner, {})
            known = {name: how for name, how in begun_with.items() if name in named}
            self._named[owner] = run, named | known
        before = self._named[owner][1]
        told = [each for each, how in named.items() if _is_better(before.get(each, ""), how)]
        return told + [each for each in before if each not in named]

    def _others(self, kind: str, namespace: str) -> dict[str, Standing]:
        """How the objects of a kind in a namespace stand, by name."""
        found = self._waited_for[kind].select(namespace)
        return {name_of(each): each["standing"] for each in found}

    def _version_of(self, namespace: str, name: str) -> str:
        """The version of a ConfigMap that no Workspace is made into; empty when there is none."""
        others = self._made["ConfigMap"].select((namespace, ""))
        return next((str(each["version"]) for each in others if name_of(each) == name), "")

    def _note_used(self, owner: Owner, manifest: Seen, pods: Iterable[Seen]) -> None:
        """Remember which nodes the Workspace is to hear of."""
        told = (manifest.get("status") or {}).get("workerNodes") or ()
        used = frozenset({*told, *(pod["spec"].get("nodeName", "") for pod in pods)} - {""})
        before = self._used.get(owner, frozenset())
        self._used[owner] = used
        for name in before - used:
            self._users[name].discard(owner)
        for name in used - before:
            self._users[name].add(owner)

    def _tell(self, owner: Any) -> None:
        """Tell an object's Workspace of it; where it is nobody's, those that have failed there."""
        if owner[1]:
            self._on_change(owner)
        else:
            self._tell_failed(owner[0])

    def _tell_failed(self, namespace: Hashable) -> None:
        for owner in [each for each in self._named if each[0] == namespace]:
            self._on_change(owner)

    def _tell_users(self, node: Hashable) -> None:
        self._node_changes += 1
        for owner in tuple(self._users.get(str(node), ())):
            self._on_change(owner)


def owner_of(manifest: Seen) -> Owner:
    """The name by which a Workspace's surroundings are found."""
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _is_kept(seen: Seen, uid: str) -> bool:
    """Whether an object is this Workspace's own, and stays."""
    return controller_uid(seen) == uid and "deletionTimestamp" not in seen["metadata"]


def _corrected(known: Mapping[Any, Any] | None, asked: Mapping[Any, Any]) -> Any:
    """What is known with what was asked in its place, where None stands for what is not there."""
    if known is None:
        return None
    return {key: each for key, each in {**known, **asked}.items() if each is not None}


def _config_maps(manifest: Seen) -> list[str]:
    """The ConfigMaps that a Workspace names."""
    parts = (manifest.get("tuning") or {}, manifest.get("inference") or {})
    return [str(part["config"]) for part in parts if part.get("config")]


def _claim_names(part: Any) -> Iterator[str]:
    """The volume claims that a Workspace, or a part of one, names."""
    if isinstance(part, Mapping):
        claim = part.get("persistentVolumeClaim") or {}
        yield from [str(claim["claimName"])] if "claimName" in claim else []
    for each in part.values() if isinstance(part, Mapping) else part:
        if isinstance(each, Mapping | list):
            yield from _claim_names(each)


def _is_better(before: Standing, now: Standing) -> bool:
    """Whether what is waited for may do by now: it is another one, or has more room."""
    if isinstance(before, str) or isinstance(now, str):
        return before != now
    return any(now.get(name, math.inf) > left for name, left in before.items())


def _namespace(seen: Object) -> str:
    return str(seen["metadata"]["namespace"])


def _owner(seen: Object) -> Owner:
    meta = seen["metadata"]
    return meta["namespace"], meta.get("labels", {}).get(WORKSPACE_LABEL, "")


def _claimant(seen: Object) -> Owner:
    labels = seen["metadata"].get("labels", {})
    return labels.get(OWNER_NAMESPACE_LABEL, ""), labels.get(OWNER_LABEL, "")


def _of_made(seen: Object) -> Object:
    """Whose the object is, and what is ours in it; of others' its version."""
    if _owner(seen)[1]:
        return {"metadata": _identity(seen, "ownerReferences"), "digest": fields_digest(seen)}
    return {"metadata": _identity(seen), "version": seen["metadata"]["resourceVersion"]}


def _of_others(seen: Object) -> Object:
    """An object that others make, by its version."""
    return {"metadata": _identity(seen), "standing": seen["metadata"]["resourceVersion"]}


def _of_quota(seen: Object) -> Object:
    """How much of each resource a quota has left."""
    status = seen.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    left = {name: parse_quantity(hard[name]) - parse_quantity(used.get(name, 0)) for name in hard}
    return {"metadata": _identity(seen), "standing": left}


def _of_claim(seen: Object) -> Object:
    """Whose the claim is."""
    return {"metadata": _identity(seen, "annotations")}


def _of_node(seen: Object) -> Object:
    """A node as far as it matters: by what it is chosen, and whether it is Ready."""
    ready = condition(seen, "Ready")
    told = {key: ready[key] for key in ("type", "status", "reason", "message") if key in ready}
    return {"metadata": _identity(seen, "labels"), "status": {"conditions": [told] if told else []}}


def _identity(seen: Object, *more: str) -> Object:
    kept = ("name", "uid", "creationTimestamp", "deletionTimestamp", *more)
    return {key: seen["metadata"][key] for key in kept if key in seen["metadata"]}
