"""The Workspaces of a benchmark: the namespace that has them, and how one is applied."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from kubernetes.aio import client, config

from tasks.platform.kube_api import KubeApi
from tests.bench.installation import NODE_LABELS, Installation
from tests.builders import tuning_manifest

NAMESPACE = "bench"
_SECRET = "push"


@contextlib.contextmanager
def folder_of_logs(kept: Path | None) -> Iterator[Path]:
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(folder)


@contextlib.asynccontextmanager
async def connected(installation: Installation) -> AsyncIterator[KubeApi]:
    """A connection to a cluster that has the namespace and the Secret of all Workspaces."""
    installation.control_plane.kubectl("create", "namespace", NAMESPACE)
    settings = client.Configuration()
    settings.connection_pool_maxsize = 0
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        str(installation.control_plane.kubeconfig), client_configuration=settings
    )
    api = KubeApi(client.ApiClient(settings))
    try:
        await _make_secret(api)
        yield api
    finally:
        await api.close()


async def _make_secret(api: KubeApi) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _SECRET},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": '{"auths": {}}'},
    }
    await api.create("Secret", NAMESPACE, secret)


async def apply(api: KubeApi, name: str, labels: Mapping[str, str] = NODE_LABELS) -> str:
    """The uid of a new Workspace, by default for the node that there is."""
    manifest = tuning_manifest(name)
    manifest["resource"]["labelSelector"] = {"matchLabels": {**labels}}
    made = await api.create("Workspace", NAMESPACE, manifest)
    assert made
    return str(made["metadata"]["uid"])
