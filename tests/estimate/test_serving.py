"""How many nodes a model needs is what KAITO's formula says."""

import pytest

from tasks.estimate import nodes_for_serving, serving_memory_gib
from tasks.presets import find_preset
from tasks.skus import Sku, find_sku

A10, A100, H100 = (
    find_sku(name)
    for name in ("Standard_NV36ads_A10_v5", "Standard_NC24ads_A100_v4", "Standard_NC40ads_H100_v5")
)


def nodes(preset: str, sku: Sku) -> int | None:
    found = find_preset(preset)
    assert found.size_gib
    assert found.kv_bytes_per_token
    return nodes_for_serving(
        sku, weights_gib=found.size_gib, kv_bytes_per_token=found.kv_bytes_per_token
    )


# KAITO 0.12's estimator, worked out by hand for machines with one GPU of 24, 80 and 94 GiB.
@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("phi-4", (2, 1, 1)),
        ("phi-4-mini-instruct", (1, 1, 1)),
        ("qwen2.5-coder-32b-instruct", (4, 2, 1)),
        ("gpt-oss-120b", (8, 3, 2)),
        ("llama-3.3-70b-instruct", (9, 3, 2)),
        ("gemma-3-27b-instruct", (4, 1, 1)),
        ("nvidia-nemotron-3-super-120b-a12b-bf16", (14, 4, 4)),
    ],
)
def test_nodes_are_those_of_kaito_s_estimator(preset: str, expected: tuple[int, ...]) -> None:
    assert tuple(nodes(preset, sku) for sku in (A10, A100, H100)) == expected


def test_a_machine_with_several_gpus_needs_fewer_nodes() -> None:
    assert nodes("llama-3.3-70b-instruct", find_sku("Standard_NC96ads_A100_v4")) == 1


def test_a_context_that_fills_every_gpu_fits_on_no_number_of_nodes() -> None:
    found = nodes_for_serving(A10, weights_gib=10, kv_bytes_per_token=327680, context_tokens=131072)
    assert found is None


def test_adapters_and_sequences_add_to_a_server() -> None:
    plain = serving_memory_gib(weights_gib=10, kv_bytes_per_token=2**20, context_tokens=1024)
    more = serving_memory_gib(
        weights_gib=10,
        kv_bytes_per_token=2**20,
        context_tokens=1024,
        sequences=3,
        adapters_gib=0.5,
    )
    assert more - plain == pytest.approx(2 + 0.5)
