"""Whatever the disk has done to a checkpoint, a run goes on from the latest that is whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.tuning.pod.checkpoints import (
    SEAL,
    Checkpoint,
    drop_oldest,
    find_checkpoint,
    keep_latest,
    seal,
)

COURSE = {"base_model": "tiny", "settings": {"training": {"learning_rate": 0.1}}}
OTHER = {"base_model": "tiny", "settings": {"training": {"learning_rate": 0.2}}}


def checkpoint(folder: Path, step: int, *, course: Any = COURSE) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    save_file({"lora_A": torch.full((4, 4), float(step))}, made / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"values": torch.arange(64)}, made / name)
    (made / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    seal(made, course=course, rows_per_step=16, rows_alike=4)
    return made


def find(folder: Path, *, steps: int = 100) -> tuple[Path | None, list[str]]:
    latest, told = find_checkpoint(folder, course=COURSE, steps=lambda _rows_per_step: steps)
    return (latest.path if latest else None), told


def test_the_latest_by_step_is_found_with_its_batches(tmp_path: Path) -> None:
    for step in (5, 10):
        checkpoint(tmp_path, step)
    expected = Checkpoint(path=tmp_path / "checkpoint-10", step=10, rows_per_step=16, rows_alike=4)
    assert find_checkpoint(tmp_path, course=COURSE, steps=lambda _: 10) == (expected, [])


def test_without_any_there_is_none(tmp_path: Path) -> None:
    assert find(tmp_path / "absent") == (None, [])


def overwrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def zeroed(data: bytes) -> bytes:
    return bytes(len(data))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def a_folder_instead(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def sealed_again(name: str, write: Callable[[Path], object]) -> Callable[[Path], None]:
    """Damage from before the seal: a library wrote what none can read."""

    def damage(folder: Path) -> None:
        (folder / SEAL).unlink()
        write(folder / name)
        seal(folder, course=COURSE, rows_per_step=16, rows_alike=4)

    return damage


def no_number(file: Path) -> None:
    weights = load_file(file)
    weights["lora_A"][0, 0] = float("nan")
    save_file(weights, file)


ADAPTER = "adapter_model.safetensors"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "optimiser zeroed": (overwrite("optimizer.pt", zeroed), "optimizer.pt is not what was written"),
    "optimiser cut": (overwrite("optimizer.pt", cut), "optimizer.pt is not what was written"),
    "optimiser removed": (removed("optimizer.pt"), "optimizer.pt cannot be read"),
    "one bit of the optimiser": (overwrite("optimizer.pt", flipped), "is not what was written"),
    "state zeroed": (overwrite("trainer_state.json", zeroed), "trainer_state.json is not"),
    "state emptied": (overwrite("trainer_state.json", lambda _: b""), "trainer_state.json is not"),
    "adapter zeroed": (overwrite(ADAPTER, zeroed), f"{ADAPTER} is not what was written"),
    "one bit of the adapter": (overwrite(ADAPTER, flipped), f"{ADAPTER} is not what was written"),
    "adapter longer": (overwrite(ADAPTER, lambda data: data + b"x"), f"{ADAPTER} is not"),
    "adapter removed": (removed(ADAPTER), f"{ADAPTER} cannot be read"),
    "adapter a folder": (a_folder_instead(ADAPTER), f"{ADAPTER} cannot be read: Is a directory"),
    "random numbers zeroed": (overwrite("rng_state.pth", zeroed), "rng_state.pth is not"),
    "scheduler zeroed": (overwrite("scheduler.pt", zeroed), "scheduler.pt is not"),
    "seal removed": (removed(SEAL), "it was not finished"),
    "seal cut": (overwrite(SEAL, cut), f"its {SEAL} cannot be read"),
    "seal emptied": (overwrite(SEAL, lambda _: b""), f"its {SEAL} cannot be read"),
    "seal zeroed": (overwrite(SEAL, zeroed), f"its {SEAL} cannot be read"),
    "seal of another form": (overwrite(SEAL, lambda _: b"[1]"), f"its {SEAL} says too little"),
    "seal of an older release": (
        overwrite(SEAL, lambda _: b'{"run": "x", "sizes": {}}'),
        f"its {SEAL} says too little",
    ),
    "sealed with an unreadable optimiser": (
        sealed_again("optimizer.pt", lambda file: file.write_bytes(b"no pickle")),
        "optimizer.pt cannot be loaded",
    ),
    "sealed with code in it": (
        sealed_again("scheduler.pt", lambda file: torch.save(Path, file)),
        "scheduler.pt cannot be loaded",
    ),
    "sealed with an unreadable adapter": (
        sealed_again(ADAPTER, lambda file: file.write_bytes(b"{}" * 20)),
        f"{ADAPTER} cannot be loaded",
    ),
    "sealed with weights that are no numbers": (
        sealed_again(ADAPTER, no_number),
        "no longer a number",
    ),
    "sealed with another step": (
        sealed_again("trainer_state.json", lambda file: file.write_text('{"global_step": 3}')),
        "it is of step 3",
    ),
    "sealed without random numbers": (
        sealed_again("rng_state.pth", lambda file: file.unlink()),
        "it was sealed without rng_state.pth",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_is_told_removed_and_the_one_before_used(tmp_path: Path, kind: str) -> None:
    before, last = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    damage, why = DAMAGES[kind]
    damage(last)
    latest, (told,) = find(tmp_path)
    assert latest == before
    assert told.startswith("checkpoint-10 cannot be used (")
    assert why in told
    assert not last.exists()


def test_where_all_are_damaged_there_is_none_and_each_is_told(tmp_path: Path) -> None:
    for step in (5, 10):
        overwrite("optimizer.pt", flipped)(checkpoint(tmp_path, step))
    latest, told = find(tmp_path)
    assert latest is None
    assert [line.split()[0] for line in told] == ["checkpoint-10", "checkpoint-5"]


def test_a_folder_whose_step_is_no_number_is_passed_over(tmp_path: Path) -> None:
    before = checkpoint(tmp_path, 5)
    shutil.copytree(before, tmp_path / "checkpoint-last")
    assert find(tmp_path)[0] == before


def test_one_of_other_settings_is_told_by_name_and_kept(tmp_path: Path) -> None:
    other = checkpoint(tmp_path, 10, course=OTHER)
    latest, (told,) = find(tmp_path)
    assert latest is None
    assert "checkpoint-10 is of other settings (settings.training.learning_rate)" in told
    assert other.exists()


def test_one_past_the_end_of_a_shorter_run_is_told_and_the_one_before_used(tmp_path: Path) -> None:
    before = checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 10)
    latest, (told,) = find(tmp_path, steps=7)
    assert latest == before
    assert told.startswith("checkpoint-10 is past the 7 steps of now")


def test_those_of_other_settings_go_once_the_run_has_its_own(tmp_path: Path) -> None:
    checkpoint(tmp_path, 10, course=OTHER)
    own = checkpoint(tmp_path, 5)
    keep_latest(own, count=2, course=COURSE, best=None)
    assert list(tmp_path.iterdir()) == [own]


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    made = [checkpoint(tmp_path, step) for step in (1, 2, 3, 4)]
    keep_latest(made[-1], count=2, course=COURSE, best=made[0])
    assert sorted(tmp_path.iterdir()) == [made[0], made[2], made[3]]


def test_a_full_disk_costs_the_oldest_and_never_the_one_that_is_written(tmp_path: Path) -> None:
    first, second, wanted = (checkpoint(tmp_path, step) for step in (1, 2, 3))
    assert drop_oldest(tmp_path, besides=wanted) == first
    assert drop_oldest(tmp_path, besides=wanted) == second
    assert drop_oldest(tmp_path, besides=wanted) is None
    assert wanted.exists()
