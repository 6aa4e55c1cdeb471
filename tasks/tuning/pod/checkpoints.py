"""Checkpoints that a killed run goes on from.

A checkpoint counts once `complete.json` lies in it: the run it belongs to and the size of every
file, written last. One that was cut short, or is another run's, is removed and the one before used.
"""

import json
import logging
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.contract.podlog import Stopped

log = logging.getLogger(__name__)

SEAL = "complete.json"
# Of a run's time, at most, goes into checkpoints: a save is followed by 20 times as much training.
_TIMES_A_SAVE = 20
_SECONDS_BETWEEN_SAVES_LEAST = 60.0


def find_checkpoint(folder: Path, *, run: str) -> Path | None:
    """The latest whole checkpoint of the run; what is unusable is removed on the way."""
    found = sorted(folder.glob("checkpoint-*"), key=_step_of, reverse=True)
    usable = [checkpoint for checkpoint in found if _is_whole(checkpoint, run)]
    for checkpoint in found:
        if checkpoint not in usable:
            log.warning("checkpoint removed path=%s reason=unusable", checkpoint)
            shutil.rmtree(checkpoint)
    return usable[0] if usable else None


def seal(checkpoint: Path, *, run: str) -> None:
    """Declare a checkpoint whole."""
    sizes = {path.name: path.stat().st_size for path in sorted(checkpoint.iterdir())}
    written = checkpoint / f".{SEAL}"
    written.write_text(json.dumps({"run": run, "sizes": sizes}), encoding="utf-8")
    written.replace(checkpoint / SEAL)


def _is_whole(checkpoint: Path, run: str) -> bool:
    try:
        stated = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        sizes = {name: (checkpoint / name).stat().st_size for name in stated["sizes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(stated["run"] == run and sizes == stated["sizes"])


def _step_of(checkpoint: Path) -> int:
    step = checkpoint.name.rpartition("-")[2]
    return int(step) if step.isdigit() else -1


class SaveInTime(TrainerCallback):
    """Asks for a checkpoint every so often, and for a last one when the run is asked to stop.

    transformers' own `enable_jit_checkpoint` waits three seconds and then exits as if all were
    well; here SIGTERM saves at the end of the step it arrives in and leaves with exit code 143.
    """

    def __init__(self) -> None:
        self.stop_requested = False
        self._last_save_s = time.monotonic()
        self._save_took_s = 0.0
        self._before: Any = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Take over SIGTERM for as long as there is something to save."""
        self._before = signal.signal(signal.SIGTERM, self._request_stop)
        self._last_save_s = time.monotonic()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Give SIGTERM back."""
        signal.signal(signal.SIGTERM, self._before)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for a checkpoint, and for the log line that belongs into it."""
        del args, state
        pause_s = max(_SECONDS_BETWEEN_SAVES_LEAST, _TIMES_A_SAVE * self._save_took_s)
        if self.stop_requested or time.monotonic() - self._last_save_s > pause_s:
            control.should_save = control.should_log = True
        if self.stop_requested:
            control.should_training_stop = True

    def saved(self, *, took_s: float) -> None:
        """Told by the trainer after each checkpoint, whoever asked for it."""
        self._save_took_s = took_s
        self._last_save_s = time.monotonic()

    def _request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        if self.stop_requested:
            raise Stopped  # asked twice: do not wait for the step to end
        log.info("stop requested, saving a checkpoint first")
        self.stop_requested = True
