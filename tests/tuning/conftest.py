"""What the tuning's tests share: a tiny model on disk, and a way to run the program."""

from pathlib import Path

import pytest

from tests.tuning.runs import Runs
from tests.tuning.tiny import chats, write_rows, write_tiny_weights


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """trl 1.16 uses names that transformers 6 will drop; the program filters them as well."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*removed in v6:FutureWarning"))


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_weights(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def runs(tmp_path: Path, tiny_weights: Path) -> Runs:
    """Runs of the trainer on the tiny model and 24 rows."""
    rows = write_rows(tmp_path / "train.jsonl", chats(24))
    return Runs(tmp_path, weights_dir=tiny_weights, train_file=rows)
