"""Checkpoints that a killed run goes on from, whatever the disk has done to them.

A checkpoint counts once `complete.json` lies in it, written last: the course of the run it belongs
to, its batches, and the sha256 of every file. One that was cut short, differs from that or cannot
be loaded is told, removed, and the one before it used. One of another course is told and kept until
the new run has one of its own.
"""

import hashlib
import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

log = logging.getLogger(__name__)

SEAL = "complete.json"
_TORCH_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
_NEEDED = ("adapter_model.safetensors", "trainer_state.json", *_TORCH_FILES)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One that can be gone on from.

    rows_per_step, rows_alike: of the BatchPlan that it was trained by.
    """

    path: Path
    step: int
    rows_per_step: int
    rows_alike: int


def find_checkpoint(
    folder: Path, *, course: Mapping[str, Any], steps: Callable[[int], int]
) -> tuple[Checkpoint | None, list[str]]:
    """The latest usable checkpoint of this course, and what is to be told of those after it.

    course: what decides where a run is after each step, as JSON.
    steps: how many the run takes now, of so many rows each.
    """
    told: list[str] = []
    for path in _by_step(folder):
        try:
            found, stated = _opened(path)
        except _Unusable as error:
            told.append(f"{path.name} cannot be used ({error}) and is removed")
            discard(path, str(error))
            continue
        changed = _changed(stated, course)
        most = steps(found.rows_per_step)
        if not changed and found.step <= most:
            return found, told
        why = f"is of other settings ({changed})" if changed else f"is past the {most} steps of now"
        told.append(
            f"{path.name} {why}: this run does not go on from it, and removes it once it has a "
            "checkpoint of its own"
        )
        log.warning("checkpoint passed over path=%s why=%s", path, why)
    return None, told


def discard(path: Path, why: str) -> None:
    """Say that a checkpoint is removed, then remove it."""
    log.warning("checkpoint removed path=%s reason=%s", path, why)
    shutil.rmtree(path)


def seal(path: Path, *, course: Mapping[str, Any], rows_per_step: int, rows_alike: int) -> None:
    """Declare a checkpoint whole, once all of it is on the disk."""
    stated = {
        "course": course,
        "rows_per_step": rows_per_step,
        "rows_alike": rows_alike,
        "sha256": {file.name: _sha256(file) for file in sorted(path.iterdir())},
    }
    for file in path.iterdir():
        _flush(file)
    written = path / f".{SEAL}"
    written.write_text(json.dumps(stated), encoding="utf-8")
    _flush(written)
    written.replace(path / SEAL)
    for folder in (path, path.parent):
        _flush(folder)


def keep_latest(latest: Path, *, count: int, course: Mapping[str, Any], best: Path | None) -> None:
    """Remove what is not of this course, or past the latest, and all but so many of the others."""
    ours = []
    for path in _by_step(latest.parent):
        if _is_of(path, course) and _step_of(path) <= _step_of(latest):
            ours.append(path)
        else:
            discard(path, f"{latest.name} is the latest of this run")
    for path in ours[count:]:
        if best is None or path.resolve() != best.resolve():
            shutil.rmtree(path)


def _is_of(path: Path, course: Mapping[str, Any]) -> bool:
    try:
        return not _changed(_stated(path), course)
    except _Unusable:
        return False


def drop_oldest(folder: Path, *, besides: Path) -> Path | None:
    """The checkpoint that made room; None if there was none but that one."""
    others = [path for path in _by_step(folder) if path != besides]
    if not others:
        return None
    discard(others[-1], "the disk is full")
    return others[-1]


class _Unusable(Exception):
    """Its text says why, to be read after "cannot be used"."""


def _opened(path: Path) -> tuple[Checkpoint, Mapping[str, Any]]:
    stated = _stated(path)
    for name in _NEEDED:
        if name not in stated["sha256"]:
            raise _Unusable(f"it was sealed without {name}")
    for name, digest in stated["sha256"].items():
        try:
            found = _sha256(path / name)
        except OSError as error:
            raise _Unusable(f"{name} cannot be read: {error.strerror}") from error
        if found != digest:
            raise _Unusable(f"{name} is not what was written")
    _load_all(path)
    step = _step_of(path)
    found_checkpoint = Checkpoint(
        path=path,
        step=step,
        rows_per_step=stated["rows_per_step"],
        rows_alike=stated["rows_alike"],
    )
    return found_checkpoint, stated


def _stated(path: Path) -> dict[str, Any]:
    """What the seal says.

    Raises: _Unusable: there is none, or it is no seal.
    """
    try:
        stated = json.loads((path / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _Unusable("it was not finished") from error
    except (OSError, ValueError) as error:
        raise _Unusable(f"its {SEAL} cannot be read") from error
    if not _is_seal(stated):
        raise _Unusable(f"its {SEAL} says too little")
    whole: dict[str, Any] = stated
    return whole


def _is_seal(stated: Any) -> bool:
    return (
        isinstance(stated, dict)
        and isinstance(stated.get("course"), dict)
        and isinstance(stated.get("sha256"), dict)
        and all(
            isinstance(stated.get(name), int) and stated[name] > 0
            for name in ("rows_per_step", "rows_alike")
        )
    )


def _load_all(path: Path) -> None:
    """Load each file once, with nothing depending on it yet.

    Raises: _Unusable: one cannot be, or holds what no training comes to.
    """
    name = "trainer_state.json"
    try:
        state = TrainerState.load_from_json(str(path / name))
        for name in _TORCH_FILES:
            with safe_globals():  # type: ignore[no-untyped-call]
                torch.load(path / name, map_location="cpu", weights_only=True)
        name = "adapter_model.safetensors"
        with safe_open(path / name, framework="pt") as weights:
            names = list(weights.keys())
            broken = [key for key in names if not weights.get_tensor(key).isfinite().all()]
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, EOFError) as error:
        raise _Unusable(f"{name} cannot be loaded") from error
    except (pickle.UnpicklingError, SafetensorError) as error:
        raise _Unusable(f"{name} cannot be loaded") from error
    if state.global_step != _step_of(path):
        raise _Unusable(f"it is of step {state.global_step}")
    if broken:
        raise _Unusable(f"{broken[0]} is no longer a number")


def _changed(stated: Mapping[str, Any], course: Mapping[str, Any]) -> str:
    """The names whose values differ from this run's; empty = it is of this run."""
    before, now = dict(_leaves(stated["course"])), dict(_leaves(course))
    names = sorted(name for name in before | now if before.get(name) != now.get(name))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _leaves(values: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{under}{name}.")
        else:
            # As JSON, in which a tuple is a list.
            yield f"{under}{name}", json.dumps(value, sort_keys=True)


def _by_step(folder: Path) -> list[Path]:
    """All checkpoints, whole or not, the latest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir()]
    return sorted(found, key=_step_of, reverse=True)


def _step_of(checkpoint: Path) -> int:
    step = checkpoint.name.rpartition("-")[2]
    return int(step) if step.isdigit() else -1


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Have a file or folder on the disk, not only in memory: a node may go at any time."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
