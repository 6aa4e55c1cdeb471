"""What one step hands to the next, and what it tells a reader. Plain data that Prefect can keep."""

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tasks.contract.programs.dataset import DatasetReport
from tasks.contract.programs.tuning import HeldOut, TuningResult


class Swap(StrEnum):
    """What becomes of a server while the Workspace is tuned again."""

    BESIDE = "beside"
    SECOND_NODE = "second-node"
    SECOND_NODE_OR_PAUSE = "second-node-or-pause"
    PAUSE = "pause"


class _Artifact(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class PublishedImage(_Artifact):
    """An adapter as an OCI image."""

    reference: str
    digest: str
    layout_dir: Path | None = None
    pushed: bool = False
    bytes: int = 0

    @property
    def url(self) -> str:
        """Where its manifest lies: in its registry, or in the folder on disk; empty = nowhere."""
        if not self.pushed:
            return self.layout_dir.as_uri() if self.layout_dir else ""
        registry, _, rest = self.reference.partition("/")
        return f"https://{registry}/v2/{rest.rsplit(':', 1)[0]}/manifests/{self.digest}"


class Tuned(_Artifact):
    """What was tuned, and from what.

    training: the digest of all that it depended on. generation: that was tuned; 0 = not known.
    kept_for: the newest generation that has the same adapter; None = the one that was tuned.
    image: None = the adapter went into a volume.
    """

    training: str
    generation: int
    kept_for: int | None = None
    image: PublishedImage | None = None
    held_out: HeldOut | None = None

    def is_of(self, generation: int) -> bool:
        """Whether it is the adapter of a generation, which is tuned once."""
        return generation in (self.generation, self.kept_for)

    def why(self, training: str) -> str:
        """Why it is not tuned again. Args: training: the digest as it would be now."""
        tuned = f"tuned in generation {self.generation}" if self.generation else "tuned before"
        if training == self.training:
            return f"{tuned}; nothing it depends on has changed"
        return (
            f"{tuned}; its ConfigMap or an annotation has changed "
            "since, and is heeded when the Workspace is edited next"
        )


class Check(_Artifact):
    """One line of a plan: what was looked at, the verdict, and the fix where there is one."""

    name: str
    result: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""
    reason: str = ""


class Price(_Artifact):
    """What the nodes of a run cost, in USD.

    per_hour: of all its nodes. run: shortest and longest; None = its duration is not known.
    dated: the day of the price table.
    """

    instance_type: str
    capacity_type: str
    per_hour: float
    run: tuple[float, float] | None = None
    dated: str


class Plan(_Artifact):
    """What a run would do and need, before it does anything.

    memory_gib: the peak; what a node has to have at least, where it is not known which one it is.
    dataset_gib: its rows as text; None = not known.
    seconds: shortest and longest expected duration.
    unchecked: what was not looked at, each with what would.
    training: the digest of all that the training depends on; empty = nothing is tuned.
    tuned: what was tuned from the very same, and is still there; None = it has to be tuned.
    comes_back: whether another was tuned since, which has the tag of its image by now.
    swap: what becomes of a server while its successor is tuned; None = nothing is tuned beside one.
    """

    checks: list[Check]
    memory_gib: float | None = None
    dataset_gib: float | None = None
    seconds: tuple[float, float] | None = None
    price: Price | None = None
    unchecked: list[str] = []
    training: str = ""
    tuned: Tuned | None = None
    comes_back: bool = False
    swap: Swap | None = None

    @property
    def refused(self) -> list[Check]:
        """The checks that stop the run."""
        return [check for check in self.checks if check.result == "fail"]

    @property
    def server_ends(self) -> bool:
        """Whether a server that is there ends before anything else needs its node."""
        return self.swap in (None, Swap.PAUSE)


class Node(_Artifact):
    """A node that the Workspace runs on.

    gpus: that its pods may have. gpu_memory_gib: of one of them; None = not known.
    has_bf16: whether its processor computes in 16 bits; one that does not, or of which it is not
        known, holds a model in 32.
    """

    name: str
    cores: int
    memory_gib: float
    gpus: int = 0
    gpu_memory_gib: float | None = None
    has_bf16: bool = False

    def gpus_for(self, needed_gib: float | None) -> int:
        """How many GPUs a server takes: one where that has the memory that it needs.

        It computes on one GPU, and spreads a model over all where it has to.
        """
        if needed_gib is None or self.gpu_memory_gib is None:
            return self.gpus
        return min(self.gpus, 1) if needed_gib <= self.gpu_memory_gib else self.gpus

    def with_gpus(self, gpus: int) -> "Node":
        """The same, to a pod that is to have so many of its GPUs, whatever it needs."""
        return self.model_copy(update={"gpus": gpus, "gpu_memory_gib": None})


class Dataset(_Artifact):
    """A dataset that was fetched, verified and normalised."""

    digest: str
    rows: int
    report: DatasetReport = Field(repr=False)


class TunedAdapter(_Artifact):
    """What is known of a trained LoRA adapter's quality."""

    metrics: TuningResult = Field(repr=False)


class Endpoint(_Artifact):
    """A server that answers."""

    url: str
    model: str

    @property
    def curl(self) -> str:
        """A command that talks to it, ready to paste."""
        return (
            f"curl -X POST {self.url}/chat -H 'Content-Type: application/json' "
            """-d '{"prompt": "What does os.path.join do?"}'"""
        )
