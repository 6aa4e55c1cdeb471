"""The catalogue of machines: what an instance type's name stands for. A new one: an entry."""

import difflib
import functools
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from tasks.errors import UnknownInstanceType

_FIRST_WITH_BF16 = (8, 0)  # Ampere


class Sku(BaseModel):
    """One kind of machine.

    gpu_memory_gib: of one GPU. compute_capability: NVIDIA's, such as 8.0; empty = no CUDA.
    nvme_gib: fast disk that comes with the machine. family: of Azure's quota; empty elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    cloud: Literal["azure", "aws"]
    vendor: Literal["nvidia", "amd", "aws"] = "nvidia"
    gpu: str
    gpus: int
    gpu_memory_gib: float
    compute_capability: str = ""
    nvme_gib: int = 0
    arch: Literal["amd64", "arm64"] = "amd64"
    vcpus: int
    memory_gib: float
    family: str = ""
    is_retired: bool = False

    @property
    def total_gpu_memory_gib(self) -> float:
        """Of all its GPUs."""
        return self.gpus * self.gpu_memory_gib

    @property
    def has_cuda(self) -> bool:
        """Whether our images and NVIDIA's device plugin run there."""
        return bool(self.compute_capability)

    @property
    def has_bf16(self) -> bool:
        """Whether its GPUs compute in bfloat16; where not, training computes in 16-bit floats."""
        if not self.has_cuda:
            return False
        return tuple(int(part) for part in self.compute_capability.split(".")) >= _FIRST_WITH_BF16

    def __str__(self) -> str:
        """As a person would say it: `1 x A100 80 GiB`."""
        return f"{self.gpus} x {self.gpu} {self.gpu_memory_gib:g} GiB"


@functools.cache
def catalogue() -> dict[str, Sku]:
    """Every machine by its lower-case name."""
    text = files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    entries = [Sku.model_validate(entry) for entry in yaml.safe_load(text)["skus"]]
    return {entry.name.lower(): entry for entry in entries}


def find_sku(name: str) -> Sku:
    """The catalogue's entry for an instance type, however its letters are cased.

    Raises: UnknownInstanceType: there is none of that name; offers near ones.
    """
    known = catalogue()
    if found := known.get(name.lower()):
        return found
    near = difflib.get_close_matches(name.lower(), sorted(known), n=3, cutoff=0.5)
    offer = ", ".join(known[each].name for each in near)
    raise UnknownInstanceType(
        f"instance type {name!r} was asked for; the catalogue has {len(known)} and this is none of "
        f"them; {f'did you mean {offer}? ' if near else ''}use one of the catalogue, or nodes of "
        "your own (provisioner byo)"
    )
