"""What the evaluation's tests share: a tiny model on disk, and adapters for it."""

from pathlib import Path

import pytest

from tests.tuning.tiny import write_tiny_weights


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """trl 1.16 uses names that transformers 6 will drop; the programs filter them as well."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*removed in v6:FutureWarning"))


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_weights(tmp_path_factory.mktemp("tiny"))
