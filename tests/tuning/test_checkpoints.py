"""Only a whole checkpoint of the same run is gone on from."""

from pathlib import Path

import pytest

from tasks.tuning.pod.checkpoints import SEAL, find_checkpoint, seal


def checkpoint(folder: Path, step: int, *, run: str = "this") -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    (made / "optimizer.pt").write_bytes(b"state of the optimiser")
    seal(made, run=run)
    return made


def test_the_latest_by_step_is_found(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5)
    latest = checkpoint(tmp_path, 10)
    assert find_checkpoint(tmp_path, run="this") == latest


def test_without_any_there_is_none(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "absent", run="this") is None


@pytest.mark.parametrize("damaged", ["optimizer.pt", SEAL])
def test_one_that_was_cut_short_is_passed_over_for_the_one_before(
    tmp_path: Path, damaged: str
) -> None:
    before, last = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    (last / damaged).write_bytes((last / damaged).read_bytes()[:-3])
    assert find_checkpoint(tmp_path, run="this") == before
    assert not last.exists()


def test_one_that_lost_a_file_is_passed_over(tmp_path: Path) -> None:
    last = checkpoint(tmp_path, 10)
    (last / "optimizer.pt").unlink()
    assert find_checkpoint(tmp_path, run="this") is None


def test_one_without_a_seal_is_passed_over(tmp_path: Path) -> None:
    before, last = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    (last / SEAL).unlink()
    assert find_checkpoint(tmp_path, run="this") == before


def test_another_runs_is_passed_over_and_removed(tmp_path: Path) -> None:
    other = checkpoint(tmp_path, 10, run="other")
    assert find_checkpoint(tmp_path, run="this") is None
    assert not other.exists()
