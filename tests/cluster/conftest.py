"""Kaitoflow installed once on the tests' nodes, for all modules that run Workspaces on them."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from demo.docstrings import write_docstring_dataset
from tasks.presets import find_preset
from tests.cluster.cluster import Cluster
from tests.cluster.dns import MACHINE
from tests.cluster.installed import TEAMS, Team, install
from tests.cluster.registry import running_registry
from tests.serving.hub_server import Hub, running_hub


@pytest.fixture(scope="session")
def installed(
    cluster: Cluster,
    product_images: dict[str, str],
    smollm2_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Team]:
    """Kaitoflow installed by its chart; weights, dataset and registry are on this machine.

    The first of its namespaces; `dataclasses.replace` makes another one of it.
    """
    folder = tmp_path_factory.mktemp("installed")
    write_docstring_dataset(folder / "rows.parquet", rows=160, seed=0)
    files = {path.name: path.read_bytes() for path in smollm2_weights.iterdir() if path.is_file()}
    with ExitStack() as running:
        pinned = [find_preset("smollm2-135m-instruct").revision]
        hub = running.enter_context(running_hub(Hub(files=files, commits=pinned)))
        web = running.enter_context(_served(folder))
        registry = running.enter_context(running_registry(folder / "registry", auth=True))
        host = cluster.trust_registry(registry)
        port = cluster.expose(web).rpartition(":")[2]
        team = Team(cluster, host, f"http://{MACHINE}:{port}/rows.parquet", TEAMS[0])
        hub_host = cluster.expose(hub.url.removeprefix("http://"))
        install(cluster, product_images, _values(host, hub_host))
        yield team


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """HOST:PORT on loopback at which the folder's files are."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_: object) -> None:
            """Keep the tests' output free of requests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def _values(registry: str, hub: str) -> dict[str, Any]:
    """The chart's values but its images: what is local here is remote elsewhere."""
    return {
        "namespaces": [*TEAMS],
        "pods": {
            # A node only says that it has a GPU.
            "environment": {"HF_ENDPOINT": f"http://{hub}", "KAITOFLOW_DEVICE": "cpu"},
            "insecureRegistries": [registry],
            "allowLocalAddresses": True,
        },
    }
