"""What tests of every area share, and which of them run in one process."""

import signal
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.models import smollm2

pytest_plugins = ["tests.cluster.fixtures"]

# Areas whose tests share a server that is dear to start run in one process each: first match wins.
_AREAS = {
    "tests/flows/watcher/test_claimed_nodes.py": "losses",
    "tests/flows/watcher/test_edits_on_made_nodes.py": "losses",
    "tests/flows/watcher/test_kept_true.py": "losses",
    "tests/flows/watcher/": "watcher",
    "tests/flows/worker/": "worker",
    "tests/flows/cluster/": "command line",
    "tests/flows/": "runs",
    "tests/chart/": "API server",
    "tests/cluster/": "API server",
    "tests/crd/": "API server",
    "tests/nodes/": "nodes",
    "tests/platform/test_diagnosis_on_a_cluster.py": "API server",
    "tests/platform/test_ownership_on_a_cluster.py": "API server",
    "tests/platform/test_rehearsal_on_a_cluster.py": "API server",
    "tests/platform/test_server_on_a_cluster.py": "API server",
    "tests/platform/test_watching_on_a_cluster.py": "API server",
}
# These mostly wait, for deadlines of Leases and heartbeats: the slow ones run one after the other.
_WAIT = ("watcher", "losses", "worker")
# Of a slow test that says nothing else: several times what it takes on a quiet machine.
_SLOW_TIMEOUT_S = 600
_LONGEST_FIRST = ("runs", "watcher", "losses", "command line", "API server", "worker", "nodes")


def _area(test_id: str) -> str:
    """The area of a test; of most, their file."""
    file = test_id.partition("::")[0]
    return next((area for start, area in _AREAS.items() if file.startswith(start)), file)


def pytest_configure() -> None:
    """Have the programs that tests start listen to Ctrl-C, however these tests were started.

    A shell starts what it runs in the background with SIGINT ignored, which programs hand down.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before a test is chosen by its marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process has much left when the others are done."""
    for item in items:
        if _area(item.nodeid) in _WAIT:
            item.add_marker("waits")
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_TIMEOUT_S))
    last = len(_LONGEST_FIRST)
    ranks = {area: rank for rank, area in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(_area(item.nodeid), last))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """With `pytest -n`: an area is one piece of work.

    xdist's own groups (3.8) are lost on pytest 9.2, which no longer lets a test's id be changed.
    """
    return _ByArea(config, log)


class _ByArea(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    def _split_scope(self, nodeid: str) -> str:
        return _area(nodeid)


@pytest.fixture(scope="session")
def smollm2_weights() -> Path:
    """SmolLM2-135M-Instruct in Hugging Face layout."""
    return smollm2()
