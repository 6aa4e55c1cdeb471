"""A file's Workspace, ConfigMaps and Secrets go to a cluster by server-side apply."""

import base64
from collections.abc import Mapping
from typing import Any

from tasks.contract.errors import InvalidWorkspace, KaitoflowError, KubernetesRefused
from tasks.contract.workspace import GROUP, Manifests, Workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object

_BAD_REQUEST, _FORBIDDEN, _NOT_FOUND, _INVALID = 400, 403, 404, 422
_RBAC_WORDS = "cannot "


class NotInstalled(KaitoflowError):
    """The cluster does not know Workspaces."""


async def rehearse(api: KubeApi, manifests: Manifests) -> None:
    """Hear what the API server says to every object of the file; nothing is changed.

    Raises: InvalidWorkspace: its rules refuse one. NotInstalled, KubernetesRefused.
    """
    for manifest in _manifests(manifests):
        await _apply(api, manifest, dry_run=True)


async def apply(api: KubeApi, manifests: Manifests) -> Object:
    """Have the file's objects on the cluster; the Workspace, as the API server keeps it."""
    kept: Object = {}
    for manifest in _manifests(manifests):
        kept = await _apply(api, manifest, dry_run=False)
    return kept


def _manifests(manifests: Manifests) -> list[Object]:
    """What a run refers to comes first, the Workspace last: it starts the run."""
    workspace = manifests.workspace
    namespace = workspace.metadata.namespace
    config_maps = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace},
            "data": data,
        }
        for name, data in manifests.config_maps.items()
    ]
    secrets = [_secret(given, namespace) for given in manifests.secrets.values()]
    return [*config_maps, *secrets, _as_given(workspace)]


def _secret(given: Mapping[str, Any], namespace: str) -> Object:
    """The Secret with `stringData` encoded: server-side apply does not track that field."""
    texts = given.get("stringData") or {}
    encoded = {key: base64.b64encode(str(v).encode()).decode() for key, v in texts.items()}
    rest = {key: value for key, value in given.items() if key != "stringData"}
    metadata = {"name": given["metadata"]["name"], "namespace": namespace}
    for kept in ("labels", "annotations"):
        if given["metadata"].get(kept):
            metadata[kept] = given["metadata"][kept]
    return rest | {"metadata": metadata, "data": (given.get("data") or {}) | encoded}


def _as_given(workspace: Workspace) -> Object:
    """What the file says of the Workspace, and nothing that it leaves to others."""
    manifest = workspace.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for assigned in ("uid", "generation"):
        manifest["metadata"].pop(assigned, None)
    # Both versions have one schema, and the API server converts; it is asked at this address.
    return manifest | {"apiVersion": f"{GROUP}/v1beta1", "kind": "Workspace"}


async def _apply(api: KubeApi, manifest: Object, *, dry_run: bool) -> Object:
    try:
        return await api.apply(manifest, dry_run=dry_run)
    except KubernetesRefused as error:
        raise _explained(error, manifest) from None


def _explained(error: KubernetesRefused, manifest: Object) -> KaitoflowError:
    meta = manifest["metadata"]
    asked = f"{manifest['kind']} {meta['namespace']}/{meta['name']} was to be applied"
    if error.status == _NOT_FOUND and "namespaces" in error.said:
        namespace = meta["namespace"]
        return InvalidWorkspace(
            f"{asked}",
            f"{error.said}",
            f"create it: kubectl create namespace {namespace}",
        )
    if error.status == _NOT_FOUND:
        return not_installed(asked)
    is_refused = error.status in (_BAD_REQUEST, _INVALID) or (
        # An admission policy says no with the same status as missing rights.
        error.status == _FORBIDDEN and _RBAC_WORDS not in error.said
    )
    if is_refused:
        return InvalidWorkspace(
            f"{asked}",
            f"the API server refuses it: {error.said}",
            "correct these fields",
        )
    return error


def not_installed(asked: str) -> NotInstalled:
    """The error that says how a cluster gets to know Workspaces."""
    return NotInstalled(
        f"{asked}",
        "the cluster knows no Workspaces",
        "install them: helm install kaitoflow deployments/chart --namespace kaitoflow "
        "--create-namespace",
    )
