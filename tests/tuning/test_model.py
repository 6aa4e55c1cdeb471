"""The number format follows from what is asked for and from what the hardware computes in."""

import pytest
import torch

from serving.model.loading import gpu_dtype
from tasks.tuning.pod.model import dtype_for

V100, T4, A100, H100 = (7, 0), (7, 5), (8, 0), (9, 0)


@pytest.mark.parametrize("asked", ["auto", "bfloat16", "float16"])
@pytest.mark.parametrize("capability", [V100, T4])
def test_gpus_without_bfloat16_compute_in_float16(asked: str, capability: tuple[int, int]) -> None:
    assert dtype_for(asked, preferred=gpu_dtype(capability), on_gpu=True) == torch.float16


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        ("auto", torch.bfloat16),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        ("float32", torch.float32),
    ],
)
@pytest.mark.parametrize("capability", [A100, H100])
def test_newer_gpus_compute_in_what_is_asked_for(
    asked: str, used: torch.dtype, capability: tuple[int, int]
) -> None:
    assert dtype_for(asked, preferred=gpu_dtype(capability), on_gpu=True) == used


def test_a_cpu_never_computes_in_float16() -> None:
    assert dtype_for("float16", preferred=torch.float32, on_gpu=False) == torch.float32
    assert dtype_for("float16", preferred=torch.bfloat16, on_gpu=False) == torch.bfloat16
