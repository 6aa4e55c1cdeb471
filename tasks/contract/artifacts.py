"""What one step hands to the next, and what it tells a reader. Plain data that Prefect can keep."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tasks.contract.programs.dataset import DatasetReport
from tasks.contract.programs.tuning import TuningResult


class _Artifact(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


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
    seconds: shortest and longest expected duration.
    unchecked: what was not looked at, each with what would.
    """

    checks: list[Check]
    memory_gib: float | None = None
    seconds: tuple[float, float] | None = None
    price: Price | None = None
    unchecked: list[str] = []

    @property
    def refused(self) -> list[Check]:
        """The checks that stop the run."""
        return [check for check in self.checks if check.result == "fail"]


class Node(_Artifact):
    """A node that the Workspace runs on."""

    name: str
    cores: int
    memory_gib: float
    gpus: int = 0


class Dataset(_Artifact):
    """A dataset that was fetched, verified and normalised."""

    digest: str
    rows: int
    report: DatasetReport = Field(repr=False)


class TunedAdapter(_Artifact):
    """What is known of a trained LoRA adapter's quality."""

    metrics: TuningResult = Field(repr=False)


class PublishedImage(_Artifact):
    """An adapter as an OCI image."""

    reference: str
    digest: str
    layout_dir: Path | None = None
    pushed: bool = False
    bytes: int = 0


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
