"""Time, disk and money follow from numbers, and are near what was measured."""

import pytest

from tasks.contract.units import duration
from tasks.estimate import (
    cost_usd,
    cpu_operations_per_s,
    disk_gib,
    gpu_operations_per_s,
    lora_parameters,
    tuning_seconds,
)
from tasks.presets import find_preset
from tasks.skus import catalogue, find_sku


def test_training_time_on_a_cpu_is_of_the_measured_size() -> None:
    """160 tokens/s: SmolLM2, QLoRA, 2 cores."""
    parameters = find_preset("smollm2-135m-instruct").parameters
    assert parameters
    seconds = tuning_seconds(
        parameters=parameters, tokens=16000, operations_per_s=cpu_operations_per_s(2)
    )
    assert seconds == pytest.approx(100, rel=0.1)


def test_recomputing_costs_half_as_much_time_again() -> None:
    kept, recomputed = (
        tuning_seconds(
            parameters=10**9, tokens=1000, operations_per_s=1e12, gradient_checkpointing=again
        )
        for again in (False, True)
    )
    assert recomputed == 1.5 * kept


def test_every_gpu_that_images_run_on_has_a_speed() -> None:
    for sku in catalogue().values():
        speed = gpu_operations_per_s(sku, quantized=True)
        assert (speed is not None) == sku.has_cuda, sku.name


def test_newer_gpus_are_faster_and_quantised_weights_slower() -> None:
    names = ("Standard_NC4as_T4_v3", "Standard_NC24ads_A100_v4", "Standard_NC40ads_H100_v5")
    speeds = [gpu_operations_per_s(find_sku(name), quantized=False) or 0 for name in names]
    assert speeds == sorted(speeds)
    assert (gpu_operations_per_s(find_sku(names[1]), quantized=True) or 0) < speeds[1]


def test_a_part_of_a_gpu_has_a_part_of_its_speed() -> None:
    part, whole = (
        gpu_operations_per_s(find_sku(f"Standard_NV{size}ads_A10_v5"), quantized=False)
        for size in (6, 36)
    )
    assert part
    assert whole == pytest.approx(6 * part)


def test_a_node_of_one_hour_costs_its_price() -> None:
    assert cost_usd(1800, price_per_hour=3.673, nodes=2) == pytest.approx(3.673)


def test_disk_holds_weights_checkpoints_and_what_is_published() -> None:
    shape = find_preset("smollm2-135m-instruct").shape
    assert shape
    served = disk_gib(weights_gib=0.25)
    trainable = lora_parameters(shape, rank=8)
    tuned = disk_gib(weights_gib=0.25, trainable_parameters=trainable, dataset_gib=0.5)
    assert served == 1.25
    assert tuned - served == pytest.approx(1.0 + trainable * 32 / 2**30)


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.0, "12 s"), (90.0, "2 min"), (7300.0, "2 h"), (300000.0, "3 days")]
)
def test_a_duration_is_said_as_a_person_would(seconds: float, said: str) -> None:
    assert duration(seconds) == said
