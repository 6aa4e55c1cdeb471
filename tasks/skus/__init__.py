"""The catalogue of machines: what an instance type's name stands for. A new one: an entry."""

import difflib
import functools
from collections.abc import Iterator
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from tasks.contract.errors import UnknownInstanceType

_FIRST_WITH_BF16 = (8, 0)  # Ampere
# What the torch of requirements/pods.txt (2.15, CUDA 13.2) has kernels for begins with Turing; CUDA
# 13 has dropped Volta. tests/skus asks torch itself.
_FIRST_WITH_KERNELS = (7, 5)


# What CUDA counts of a card, by its name and the size on its data sheet, as users of each report it
# from torch.cuda: ECC and the driver take the rest. A share of it where none is known.
_USABLE_GIB: dict[tuple[str, float], float] = {
    ("T4", 16): 14.6,
    ("V100", 16): 15.8,
    ("A10", 24): 22.0,
    ("A10G", 24): 22.0,
    ("L4", 24): 22.0,
    ("A100", 40): 39.4,
    ("A100", 80): 79.2,
    ("H100", 80): 79.1,
    ("H100", 94): 93.1,
    ("H200", 141): 139.8,
}
_USABLE_SHARE = 0.91


def has_bf16(compute_capability: tuple[int, int]) -> bool:
    """Whether an NVIDIA GPU computes in bfloat16; where not, float16 takes its place."""
    return compute_capability >= _FIRST_WITH_BF16


class Sku(BaseModel):
    """One kind of machine.

    gpu_memory_gib: of one GPU. compute_capability: NVIDIA's, such as 8.0; empty = no CUDA.
    family: of Azure's quota; empty elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    cloud: Literal["azure", "aws"]
    gpu: str
    gpus: int
    gpu_memory_gib: float
    compute_capability: str = ""
    vcpus: int
    memory_gib: float
    family: str = ""
    is_retired: bool = False

    @property
    def usable_gib(self) -> float:
        """What a program can have of one GPU: less than data sheets say."""
        known = _USABLE_GIB.get((self.gpu, self.gpu_memory_gib))
        return known or self.gpu_memory_gib * _USABLE_SHARE

    @property
    def usable_gpu_memory_gib(self) -> float:
        """What a program can have of all its GPUs."""
        return self.gpus * self.usable_gib

    @property
    def has_cuda(self) -> bool:
        """Whether its GPUs are NVIDIA's: what the device plugin counts."""
        return bool(self.compute_capability)

    @property
    def runs_our_images(self) -> bool:
        """Whether the torch in our images has kernels for its GPUs."""
        return self.has_cuda and self._capability >= _FIRST_WITH_KERNELS

    @property
    def has_bf16(self) -> bool:
        """Whether its GPUs compute in bfloat16; where not, training computes in 16-bit floats."""
        return self.has_cuda and has_bf16(self._capability)

    @property
    def limits(self) -> tuple[str, ...]:
        """What it cannot do, each a sentence a person can act on; empty = nothing to know."""
        return tuple(self._limits())

    def _limits(self) -> Iterator[str]:
        if not self.has_cuda:
            yield (
                f"its {self.gpu} is not NVIDIA's: NVIDIA's device plugin and our images do not run "
                "there; choose a machine with an NVIDIA GPU"
            )
            return
        if not self.runs_our_images:
            yield (
                f"its {self.gpu} has compute capability {self.compute_capability}, the torch in "
                f"our images begins at {'.'.join(map(str, _FIRST_WITH_KERNELS))}; build images "
                "with a torch for CUDA 12.6, or choose a newer GPU"
            )
        if not self.has_bf16:
            yield f"its {self.gpu} has no bfloat16: training and serving compute in float16"
        if self.is_retired:
            yield f"{self.name} is retired: the cloud may have none; name a second instance type"

    @property
    def _capability(self) -> tuple[int, int]:
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)

    def __str__(self) -> str:
        """Say it as a person would: `1 x A100 80 GiB`."""
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
    near = near_names(name)
    raise UnknownInstanceType(
        f"instance type {name!r} was asked for",
        f"the catalogue has {len(known)} and this is none of them",
        f"{(f'did you mean {near}? ' if near else '')}use one of the catalogue, or nodes "
        "of your own (provisioner byo)",
    )


def near_names(name: str) -> str:
    """Names of the catalogue that are spelt nearly so, with commas; empty = there is none."""
    known = catalogue()
    near = difflib.get_close_matches(name.lower(), sorted(known), n=3, cutoff=0.5)
    return ", ".join(known[each].name for each in near)
