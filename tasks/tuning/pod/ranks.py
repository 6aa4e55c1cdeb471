"""The processes of one run, each with a GPU of its own: which one this is, and what they agree on.

Each has the whole model and takes its rows of every step (`SharedRows`). What is learned of a step
is the mean of what all have learned, averaged once a step: the adapter's gradients alone, since the
model is frozen. DistributedDataParallel would do the same by hooks in a forward pass of its own,
which the loss on answers does not go through.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from tasks.contract.errors import PodsNotTogether
from tasks.tuning.pod.processes import BESIDE, COUNT, NUMBER, PLACE, RENDEZVOUS, VARIABLES, is_rank

# Each loads the model before it answers; and one saves while the others wait.
_PATIENCE = timedelta(minutes=30)
# Of a file that goes to other nodes, at a time.
_PART_BYTES = 64 * 2**20

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those of its run.

    number: from 0; the first one writes files and answers. count: of all.
    place: its number among those of its node, and that of its GPU. beside: how many that node has.
    """

    number: int = 0
    count: int = 1
    place: int = 0
    beside: int = 1
    # Words are exchanged on the CPU, also where numbers are on GPUs.
    _words: Any = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes files and answers."""
        return self.number == 0

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is raised in any process; all have to ask."""
        if self.count == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.uint8)
        distributed.all_reduce(raised, distributed.ReduceOp.MAX, group=self._words)
        return tuple(bool(flag) for flag in raised)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What the first process makes; the others wait for it."""
        if self.count == 1:
            return make()
        made = [make() if self.is_first else None]
        distributed.broadcast_object_list(made, src=0, group=self._words)
        value: Value = made[0]  # type: ignore[assignment]
        return value

    def least(self, value: float) -> float:
        """The least of what the processes have."""
        return min(self._all(value))

    def sum(self, value: float) -> float:
        """What the processes have together."""
        return sum(self._all(value))

    def _all(self, value: float) -> list[float]:
        if self.count == 1:
            return [value]
        values: list[float] = [0.0] * self.count
        distributed.all_gather_object(values, value, group=self._words)
        return values

    def expect_alike(self, facts: Mapping[str, Any]) -> None:
        """Nothing, if every process has these very facts.

        Raises: PodsNotTogether: each node fetches for itself, and one got something else.
        """
        if self.count == self.beside:
            return
        theirs: list[Mapping[str, Any]] = [{}] * self.count
        distributed.all_gather_object(theirs, facts, group=self._words)
        for number, other in enumerate(theirs):
            if names := sorted(name for name in facts if other.get(name) != theirs[0].get(name)):
                raise PodsNotTogether(
                    f"{self.count // self.beside} pods were to train together",
                    f"pod {number // self.beside} has another {', '.join(names)} than the first",
                    "let the dataset and the model's revision stay as they are, and run again",
                )

    def share_folder(self, folder: Path, *, seal: str) -> None:
        """Have the first process's folder on every node, also where its disk is not the first's.

        Args: seal: its file that is another where anything in it is.
        """
        if self.count == self.beside:
            return
        sizes, whole = self.from_first(
            lambda: (
                {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
                (folder / seal).read_bytes(),
            )
        )
        writes = self.place == 0 and not self.is_first
        if writes and (folder / seal).is_file():
            writes = (folder / seal).read_bytes() != whole
        incoming = folder.with_name(f".{folder.name}.incoming")
        if writes:
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir(parents=True)
        for name, size_bytes in sizes.items():
            if writes:
                (incoming / name).touch()
            for start in range(0, size_bytes, _PART_BYTES):
                part = self._part(folder / name, start, min(_PART_BYTES, size_bytes - start))
                if writes:
                    with (incoming / name).open("ab") as file:
                        file.write(part)
        if writes:
            shutil.rmtree(folder, ignore_errors=True)
            incoming.replace(folder)
        distributed.barrier(group=self._words)

    def _part(self, file: Path, start: int, length: int) -> bytes:
        """So many bytes of a file of the first process's."""
        part = bytearray(length)
        if self.is_first:
            with file.open("rb") as opened:
                opened.seek(start)
                part[:] = opened.read(length)
        shared = torch.frombuffer(part, dtype=torch.uint8)
        distributed.broadcast(shared, src=0, group=self._words)
        return bytes(part)

    def begin_alike(self, parameters: Iterable[nn.Parameter]) -> None:
        """Have every process begin with the first one's weights, and draw numbers of its own."""
        if self.count == 1:
            return
        for parameter in parameters:
            distributed.broadcast(parameter.data, src=0)
        self.draw_apart()

    def draw_apart(self) -> None:
        """Have every process draw other numbers from here on: what it drops is not the others'."""
        if self.number:
            torch.manual_seed(int(torch.randint(2**31, ())) + self.number)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Have every process hold the mean of all processes' gradients."""
        if self.count == 1:
            return
        slopes = []
        for parameter in parameters:
            if parameter.grad is None:  # of a part that no row of this process went through
                parameter.grad = torch.zeros_like(parameter)
            slopes.append(parameter.grad)
        together = torch.cat([slope.reshape(-1) for slope in slopes])
        distributed.all_reduce(together)
        together /= self.count
        parts = torch.split(together, [slope.numel() for slope in slopes])
        for slope, part in zip(slopes, parts, strict=True):
            slope.copy_(part.view_as(slope))

    def part(self) -> None:
        """End what is done together: the first process goes on alone, the others end here."""
        if self.count == 1:
            return
        from accelerate.state import AcceleratorState  # type: ignore[import-untyped]

        distributed.barrier(group=self._words)
        distributed.destroy_process_group()
        if not self.is_first:
            raise SystemExit(0)
        for name in VARIABLES:
            os.environ.pop(name, None)
        AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001


def join_ranks(*, on_gpu: bool) -> Ranks:
    """This process among those that were started with it, once all are there."""
    if not is_rank():
        return Ranks()
    number, count, place, beside = (
        int(os.environ[name]) for name in (NUMBER, COUNT, PLACE, BESIDE)
    )
    _end_with_starter()
    if on_gpu:
        torch.cuda.set_device(place)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=os.environ[RENDEZVOUS],
        rank=number,
        world_size=count,
        timeout=_PATIENCE,
    )
    words = distributed.new_group(backend="gloo") if on_gpu else distributed.group.WORLD
    return Ranks(number=number, count=count, place=place, beside=beside, _words=words)


def _end_with_starter() -> None:
    """Have this process end when the one that started it is gone, killed included."""

    def wait() -> None:
        # Not sys.stdin, whose lock the interpreter wants when it ends.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
