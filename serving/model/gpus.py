"""Whether the GPUs that a pod was given can be used; asked before anything is loaded.

PyTorch only warns when a driver is too old, and then says that there is no GPU: without this a run
would go on on the CPU of a machine that is paid for its GPU.
"""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tasks.contract.errors import GpuIncompatible, InvalidWorkspace

_FIX = (
    "update the node's NVIDIA driver or choose another machine; KAITOFLOW_DEVICE=cpu in the pod's "
    "environment runs on the CPU on purpose"
)


@dataclass(frozen=True, kw_only=True)
class SeenGpus:
    """What PyTorch sees.

    capabilities: of each usable GPU. kernels: what PyTorch was built for, such as sm_80.
    complaint: why there is none, in PyTorch's or the driver's words.
    """

    capabilities: tuple[tuple[int, int], ...]
    kernels: tuple[str, ...]
    complaint: str = ""


def asked_device() -> str:
    """What the environment says about where to compute: `auto` or `cpu`.

    Raises: InvalidWorkspace: another word.
    """
    device = os.environ.get("KAITOFLOW_DEVICE", "auto")
    if device not in ("auto", "cpu"):
        raise InvalidWorkspace(
            f"KAITOFLOW_DEVICE is {device!r}",
            "it may be auto (the GPU where there is one) or cpu",
            "correct it or leave it out",
        )
    return device


def require_gpus(needed: int) -> None:
    """Nothing when all the GPUs that are needed can be used, or are not to be used.

    Raises: GpuIncompatible.
    """
    if needed and asked_device() != "cpu":
        check_gpus(needed, see_gpus())


def see_gpus() -> SeenGpus:
    """The GPUs that this process could compute on now."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    complaint = str(warned[0].message).partition("\n")[0] if warned else ""
    if torch.version.cuda is None:
        complaint = "this PyTorch was built without CUDA"
    return SeenGpus(
        capabilities=tuple(torch.cuda.get_device_capability(index) for index in range(count)),
        kernels=tuple(torch.cuda.get_arch_list()),
        complaint=complaint,
    )


def check_gpus(needed: int, seen: SeenGpus) -> None:
    """Nothing when all the GPUs that are needed can be used.

    Raises: GpuIncompatible.
    """
    if len(seen.capabilities) < needed:
        why = f" ({seen.complaint})" if seen.complaint else ""
        raise GpuIncompatible(
            f"{needed} GPU(s) were given to this pod",
            f"PyTorch {torch.__version__} can use {len(seen.capabilities)}{why}",
            f"{_FIX}",
        )
    for index, capability in enumerate(seen.capabilities[:needed]):
        if not has_kernels_for(capability, seen.kernels):
            raise GpuIncompatible(
                f"GPU {index} has the compute capability {capability[0]}.{capability[1]}",
                f"PyTorch {torch.__version__} has kernels for {', '.join(seen.kernels) or 'none'}",
                f"{_FIX}",
            )


def has_kernels_for(capability: tuple[int, int], kernels: Sequence[str]) -> bool:
    """Whether one of the kernels runs on a GPU of that capability.

    Compiled ones (sm) run on the same major version from theirs on, those with a letter on their
    own only; intermediate code (compute) is compiled for whatever is newer.
    """
    asked = capability[0] * 10 + capability[1]
    for kernel in kernels:
        parts = re.fullmatch(r"(sm|compute)_(\d+)([a-z]?)", kernel)
        if not parts:
            continue
        kind, built, letter = parts[1], int(parts[2]), parts[3]
        if built == asked or (not letter and kind == "compute" and built <= asked):
            return True
        if not letter and built // 10 == capability[0] and built <= asked:
            return True
    return False
