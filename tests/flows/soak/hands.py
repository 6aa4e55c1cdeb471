"""Who does to a soak's Workspaces what was drawn, and sees what became of them."""

import asyncio
import random

from tasks.contract.workspace import STOPPED_ANNOTATION
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import MANAGED_BY
from tasks.platform.node_affinity import OWNER_NAMESPACE_LABEL
from tasks.platform.ownership import controller_uid
from tasks.platform.wire import Object, name_of
from tests.flows.soak.subjects import Act, Seen, Subject
from tests.flows.watcher.azure import Azure
from tests.flows.watcher.clouds import wanting

NAME, SECRET = "tuned", "push"
_CONFIG = '{"auths": {"registry.example.com": {"auth": "dTpw"}}}'
_OWNED_KINDS = ("ConfigMap", "Job", "Service", "StatefulSet")
_PUSH = "push-image"


class Hands:
    """Acts on Workspaces by an administrator's connection."""

    def __init__(self, api: KubeApi, azure: Azure, chance: random.Random) -> None:
        """Draw by `chance` which object, pod or node it is."""
        self._api, self._azure, self._chance = api, azure, chance

    async def prepare(self, subject: Subject) -> None:
        """The Workspace, in a namespace that is there."""
        await self._give_secret(subject)
        await self._apply(subject)

    async def do(self, act: Act, subject: Subject) -> str:
        """Do it; what was done, in a few words. Args: subject: as it is after the act."""
        match act:
            case Act.DELETE_OBJECT:
                return await self._delete_object(subject)
            case Act.KILL_POD:
                return await self._kill_pod(subject)
            case Act.LOSE_NODE:
                return await self._lose_node(subject)
            case Act.STOP | Act.START:
                await self._stop(subject)
            case Act.DELETE:
                await self._api.delete("Workspace", subject.namespace, NAME)
            case Act.TAKE_SECRET:
                await self._api.delete("Secret", subject.namespace, SECRET)
            case Act.GIVE_SECRET:
                await self._give_secret(subject)
            case Act.RECREATE:
                return await self._recreate(subject)
            case _:
                await self._apply(subject)
        return act.value

    async def heal(self, before: Subject, healthy: Subject) -> None:
        """Ask for what can be."""
        if not before.has_secret:
            await self._give_secret(healthy)
        if before.exists:
            await self._stop(healthy)
            await self._apply(healthy)
        else:
            await self._recreate(healthy)

    async def look(self, subject: Subject) -> Seen:
        """What there is of it now."""
        namespace = subject.namespace
        workspace = await self._api.get("Workspace", namespace, NAME)
        owned = await self._owned(subject)
        claims = await self._claims(subject)
        return Seen(
            workspace=workspace,
            objects=[kind for kind, _ in owned],
            claims=len(claims),
            pushes=self._azure.started[namespace, _PUSH],
            most_pushes_at_once=self._azure.most_at_once[namespace, _PUSH],
        )

    async def _apply(self, subject: Subject) -> None:
        manifest = wanting(subject.namespace)
        manifest["tuning"]["input"]["urls"] = [f"https://example.com/{subject.dataset}.parquet"]
        if subject.is_refused:
            manifest["tuning"]["config"] = "is-not-there"
        manifest["metadata"]["labels"] = {"touched": str(subject.touches)}
        manifest["resource"]["preferredNodes"] = [f"node-{subject.touches}"]
        await self._api.apply(manifest)

    async def _recreate(self, subject: Subject) -> str:
        """One that is on its way is waited for: an apply would only touch it."""
        async with asyncio.timeout(300):
            while await self._api.get("Workspace", subject.namespace, NAME):
                await asyncio.sleep(0.5)
        await self._apply(subject)
        return Act.RECREATE.value

    async def _stop(self, subject: Subject) -> None:
        """Stop it, or let it go on."""
        patch = {
            "metadata": {"annotations": {STOPPED_ANNOTATION: "1" if subject.is_stopped else None}}
        }
        await self._api.merge("Workspace", subject.namespace, NAME, patch)

    async def _give_secret(self, subject: Subject) -> None:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": _CONFIG},
        }
        await self._api.create("Secret", subject.namespace, secret)

    async def _delete_object(self, subject: Subject) -> str:
        there = await self._owned(subject)
        there += [("NodeClaim", each) for each in await self._claims(subject)]
        if not there:
            return "there was nothing to delete"
        kind, chosen = self._chance.choice(there)
        name = name_of(chosen)
        await self._api.delete(kind, chosen["metadata"].get("namespace"), name)
        return f"delete {kind} {name}"

    async def _owned(self, subject: Subject) -> list[tuple[str, Object]]:
        """(kind, object) of what a Workspace controls, without what goes by itself."""
        kinds = [self._api.find(k, subject.namespace, labels=MANAGED_BY) for k in _OWNED_KINDS]
        found = await asyncio.gather(*kinds)
        return [
            (kind, each)
            for kind, there in zip(_OWNED_KINDS, found, strict=True)
            for each in there
            if controller_uid(each)
        ]

    async def _claims(self, subject: Subject) -> list[Object]:
        return await self._api.find("NodeClaim", labels={OWNER_NAMESPACE_LABEL: subject.namespace})

    async def _kill_pod(self, subject: Subject) -> str:
        pods = await self._api.find("Pod", subject.namespace)
        if not pods:
            return "there was no pod to kill"
        name = name_of(self._chance.choice(pods))
        await self._api.delete("Pod", subject.namespace, name)
        return f"kill pod {name}"

    async def _lose_node(self, subject: Subject) -> str:
        nodes = await self._api.find("Node", labels={OWNER_NAMESPACE_LABEL: subject.namespace})
        if not nodes:
            return "there was no node to lose"
        node = self._chance.choice(nodes)
        name, pool = name_of(node), node["metadata"]["labels"]["agentpool"]
        await asyncio.to_thread(self._azure.lose, pool)
        return f"lose node {name}"


class Strangers:
    """Objects of others beside the soak, which must stay as they are, to the last field."""

    def __init__(self, api: KubeApi, namespaces: list[str]) -> None:
        """Be in these namespaces, once they are there."""
        self._api, self._namespaces = api, namespaces
        self._before: dict[tuple[str, str], Object] = {}

    async def come(self) -> None:
        """One Service and one ConfigMap in each namespace, labelled as ours and owned by nobody."""
        for namespace in self._namespaces:
            for kind, content in (("Service", _SERVICE), ("ConfigMap", {"data": {"a": "b"}})):
                meta = {"name": f"{NAME}-stranger", "labels": MANAGED_BY}
                body = {"apiVersion": "v1", "kind": kind, "metadata": meta, **content}
                made = await self._api.create(kind, namespace, body)
                assert made
                self._before[kind, namespace] = made

    async def changed(self) -> list[str]:
        """Of which something is another than before."""
        found = []
        for (kind, namespace), before in self._before.items():
            now = await self._api.get(kind, namespace, before["metadata"]["name"])
            if (
                not now
                or now["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
            ):
                found.append(f"{kind} {namespace}/{before['metadata']['name']}")
        return found


_SERVICE = {"spec": {"ports": [{"port": 80}], "selector": {"app": "stranger"}}}
