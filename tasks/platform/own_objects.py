"""What is a Workspace's own on the API server: found, made, removed and waited for.

An object of somebody else that has the same labels, or the same name, is never touched.
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from tasks.contract.errors import KubernetesRefused
from tasks.contract.workspace import Workspace
from tasks.platform.base import LONGEST_GRACE_S
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.labels import POD_LABEL, workspace_labels
from tasks.platform.ownership import controller_uid, is_in_the_way, is_of, name_taken
from tasks.platform.wire import Object, name_of

logger = logging.getLogger(__name__)

_INVALID = 422
_GONE_TIMEOUT_S = LONGEST_GRACE_S + 60.0
_LOOK_AGAIN_S = 0.5


@dataclass(frozen=True)
class OwnObjects:
    """The objects that a Workspace controls."""

    api: KubeApi
    workspace: Workspace

    async def find(self, kind: str) -> list[Object]:
        """Those of a kind; others may carry the same labels."""
        labels = workspace_labels(self.workspace)
        found = await self.api.find(kind, self.workspace.metadata.namespace, labels=labels)
        return [each for each in found if is_of(each, self.workspace)]

    async def get(self, kind: str, name: str) -> Object | None:
        """The one of this name; None where there is none, or it is somebody else's."""
        found = await self.api.get(kind, self.workspace.metadata.namespace, name)
        return found if found and is_of(found, self.workspace) else None

    async def is_there(self, kind: str, name: str) -> bool:
        """Whether there is one of this name; False = the name is free.

        What an earlier Workspace of this name has left is waited for: it goes by itself.
        Raises: NameTaken: the object is somebody else's.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + _GONE_TIMEOUT_S
        while True:
            found = await self.api.get(kind, self.workspace.metadata.namespace, name)
            if found is None or is_of(found, self.workspace):
                return found is not None
            if is_in_the_way(found, self.workspace) or clock() > deadline:
                raise name_taken(kind, name, self.workspace)
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def apply(self, manifest: Object) -> Object:
        """Have an object as it should be, if need be another in its place.

        Ports of a Service that somebody has changed stay beside ours, which have the same names.
        """
        meta = manifest["metadata"]
        try:
            return await self.api.apply(manifest)
        except KubernetesRefused as error:
            if manifest["kind"] != "Service" or error.status != _INVALID:
                raise
        await self.api.delete("Service", meta["namespace"], meta["name"])
        return await self.api.apply(manifest)

    async def remove(self, kind: str, objects: Collection[Object]) -> list[str]:
        """Have these deleted; the names of those that were there."""
        namespace = self.workspace.metadata.namespace
        return [
            f"{kind}/{name_of(each)}"
            for each in objects
            if await self.api.delete(kind, namespace, name_of(each), uid=each["metadata"]["uid"])
        ]

    async def remove_all(self, *kinds: str) -> list[str]:
        """Have all of these kinds deleted; the names of those that were there."""
        removed = []
        for kind in kinds:
            removed += await self.remove(kind, await self.find(kind))
        return removed

    async def wait_until_gone(
        self, *, names: Collection[str] = (), but_of: Collection[str] = ()
    ) -> None:
        """Return when there is no pod of these names (empty = any), but of the owners by uid."""
        wanted = workspace_labels(self.workspace)
        clock = asyncio.get_running_loop().time
        deadline = clock() + _GONE_TIMEOUT_S
        while clock() < deadline:
            pods = await self.api.find("Pod", self.workspace.metadata.namespace, labels=wanted)
            meant = [
                p for p in pods if not names or p["metadata"]["labels"].get(POD_LABEL) in names
            ]
            if all(controller_uid(pod) in but_of for pod in meant):
                return
            await asyncio.sleep(_LOOK_AGAIN_S)
        logger.warning(
            "pods still there workspace=%s after_s=%.0f", self.workspace, _GONE_TIMEOUT_S
        )
