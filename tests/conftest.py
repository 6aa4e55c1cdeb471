"""What tests of every area share, and which of them run in one process."""

from pathlib import Path

import pytest

from tests.models import fetch_smollm2

pytest_plugins = ["tests.cluster.fixtures"]

# Fixtures that are dear to set up, and the process that the tests with one share; longest first.
_SHARED = {
    "installation": "runs",
    "finished": "runs",
    "installed": "watcher",
    "pool": "worker",
    "shared": "worker",
    "control_plane": "API server",
}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `pytest -n`: a process for each dear fixture's tests, begun first, and else a file's."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_SHARED.get(_dear(item), str(item.path))))
    order = [*_SHARED, ""]
    items.sort(key=lambda item: order.index(_dear(item)))


def _dear(item: pytest.Item) -> str:
    """The fixture by which a test is grouped; empty when it has none of them."""
    wanted = getattr(item, "fixturenames", ())
    return next((fixture for fixture in _SHARED if fixture in wanted), "")


@pytest.fixture(scope="session")
def smollm2_weights() -> Path:
    """SmolLM2-135M-Instruct in Hugging Face layout."""
    return fetch_smollm2()
