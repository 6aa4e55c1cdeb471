"""What vLLM computes of an adapter is known before there is one."""

from typing import Any

import pytest

from tasks.contract.plain_lora import rank_in_vllm, why_not_in_vllm

PLAIN = {"r": 8, "use_dora": False, "bias": "none", "modules_to_save": None}


@pytest.mark.parametrize(("needed", "has"), [(1, 8), (16, 16), (24, 32), (513, None)])
def test_a_rank_is_one_that_vllm_has_room_for(needed: int, has: int | None) -> None:
    assert rank_in_vllm(needed) == has


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        (PLAIN, ""),
        ({}, ""),
        (PLAIN | {"r": 512}, ""),
        (PLAIN | {"r": 1024}, "the rank 1024, and vLLM has room for 512"),
        (PLAIN | {"rank_pattern": {"q_proj": 600}}, "the rank 600, and vLLM has room for 512"),
        (PLAIN | {"use_dora": True}, "use_dora, which vLLM does not compute"),
        (
            PLAIN | {"bias": "all", "modules_to_save": ["lm_head"]},
            "modules_to_save, bias, which vLLM does not compute",
        ),
    ],
)
def test_what_vllm_does_not_compute_is_named(adapter: dict[str, Any], words: str) -> None:
    assert why_not_in_vllm(adapter) == words


def test_room_that_is_asked_for_bounds_the_rank() -> None:
    assert why_not_in_vllm({"r": 64}, most_rank=64) == ""
    assert why_not_in_vllm({"r": 64}, most_rank=32) == "the rank 64, and vLLM has room for 32"
