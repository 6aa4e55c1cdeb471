"""What the checks may look at on a cluster, read from the API server. Nothing is changed."""

import asyncio
import logging
from collections.abc import Mapping
from itertools import chain

from tasks.contract.errors import KubernetesRefused
from tasks.contract.retuning import moves_adapters
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Workspace
from tasks.platform.base import World
from tasks.platform.kube_api import KubeApi
from tasks.platform.manifests.naming import admin_key_secret, object_names
from tasks.platform.named_objects import (
    admin_key_in,
    claims_of,
    docker_config_of,
    secret_faults,
    volume_faults,
)
from tasks.platform.namespace_rules import NamespaceRules
from tasks.platform.outputs import Rivals, rivals, writer_of
from tasks.platform.ownership import is_in_the_way
from tasks.platform.wire import Object
from tasks.settings import settings

logger = logging.getLogger(__name__)


async def look_around(
    api: KubeApi, workspace: Workspace, status: WorkspaceStatus, *, push: bool, port: int | None
) -> World:
    """What the Workspace names, as far as it is there, and what has the name of its objects."""
    namespace, name = workspace.metadata.namespace, workspace.config_name
    data = await read_config_map(api, workspace, name) if name else None
    secrets = {s: await api.get("Secret", namespace, s) for s in workspace.secret_names}
    names = object_names(workspace)
    there = await asyncio.gather(*(api.get(kind, namespace, each) for kind, each in names))
    faults = {**secret_faults(workspace, secrets)}
    pushing = secrets.get(workspace.push_secret)
    if ("Secret", workspace.push_secret) in faults:
        pushing = None
    faults |= volume_faults(workspace, await _claims(api, workspace))
    return World(
        config_maps={name: data} if name and data is not None else {},
        has_secret=lambda secret: secrets.get(secret) is not None,
        docker_config=docker_config_of(pushing) if pushing else None,
        is_cluster=True,
        push=push,
        taken=tuple(
            about
            for about, found in zip(names, there, strict=True)
            if is_in_the_way(found, workspace)
        ),
        faults=faults,
        tuned=status.tuned,
        tuned_before=status.adapters.proven,
        served_generation=status.served_generation,
        has_admin_key=await _has_admin_key(api, workspace),
        rivals=await _rivals(api, workspace),
        port=port,
    )


async def _has_admin_key(api: KubeApi, workspace: Workspace) -> bool:
    if not moves_adapters(workspace):
        return True
    namespace, name = workspace.metadata.namespace, admin_key_secret(workspace)
    return bool(admin_key_in(await api.get("Secret", namespace, name)))


async def read_config_map(
    api: KubeApi, workspace: Workspace, name: str
) -> Mapping[str, str] | None:
    """The data of a ConfigMap in the Workspace's namespace; None when there is none."""
    found = await api.get("ConfigMap", workspace.metadata.namespace, name)
    return None if found is None else found.get("data") or {}


async def namespace_rules(api: KubeApi, workspace: Workspace) -> NamespaceRules:
    """The namespace's ResourceQuotas and LimitRanges; none where they may not be read."""
    namespace = workspace.metadata.namespace
    try:
        quotas, limit_ranges = await asyncio.gather(
            api.find("ResourceQuota", namespace), api.find("LimitRange", namespace)
        )
    except KubernetesRefused as error:
        logger.warning("rules not read namespace=%s: %s", namespace, error)
        return NamespaceRules()
    return NamespaceRules(quotas=quotas, limit_ranges=limit_ranges)


async def _rivals(api: KubeApi, workspace: Workspace) -> Rivals:
    """Who writes to the same; nobody, where nothing is written."""
    if not workspace.tuning:
        return Rivals()
    found: list[Object] = []
    # A person may see the own namespace alone; the worker sees those of the installation.
    for namespaces in (settings().namespaces or (None,), (workspace.metadata.namespace,)):
        try:
            in_each = await asyncio.gather(*(api.find("Workspace", each) for each in namespaces))
        except KubernetesRefused as error:
            logger.warning("other outputs not seen workspace=%s: %s", workspace, error)
            continue
        found = list(chain.from_iterable(in_each))
        break
    there = (each for each in found if "deletionTimestamp" not in each["metadata"])
    return rivals(workspace, map(writer_of, there))


async def _claims(api: KubeApi, workspace: Workspace) -> dict[str, Object | None]:
    """The volume claims that the Workspace names; empty where they may not be read."""
    namespace = workspace.metadata.namespace
    try:
        names = claims_of(workspace)
        return {n: await api.get("PersistentVolumeClaim", namespace, n) for n in names}
    except KubernetesRefused as error:
        logger.warning("volume claims not read workspace=%s: %s", workspace, error)
        return {}
