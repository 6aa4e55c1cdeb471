"""How much memory and time a run is said to take, here and on a machine of a cloud."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.artifacts import Node
from tasks.contract.training_config import ModelSettings, parse_training_config
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.estimate import tuning_memory_gib
from tasks.plan.size import (
    Fit,
    Run,
    fit_on,
    memory_here_gib,
    seconds_here,
    seconds_on,
    serving_lacks_gib,
)
from tasks.presets import Preset, find_preset
from tasks.skus import Sku, find_sku
from tests.builders import tuning_manifest, tuning_workspace

SMALL = find_preset("smollm2-135m-instruct")
TEN_GIB = Preset(name="m", model="o/m", size_gib=10, kv_bytes_per_token=2**20, context_tokens=2048)
UNKNOWN = Preset(name="m", model="o/m")
T4, A100 = find_sku("Standard_NC4as_T4_v3"), find_sku("Standard_NC24ads_A100_v4")
HERE = Node(name="here", cores=2, memory_gib=16.0)


def tuned(
    preset: Preset = SMALL, *, method: str = "lora", tokens: int | None = None, **arguments: Any
) -> Run:
    lines = "".join(f"\n    {name}: {value}" for name, value in arguments.items())
    text = f"training_config:\n  TrainingArguments:{lines or ' {}'}"
    config = parse_training_config(text, method=method)
    return Run(workspace=tuning_workspace(), preset=preset, config=config, tokens=tokens)


def served(preset: Preset) -> Run:
    manifest = {"metadata": {"name": "s"}, "inference": {"preset": {"name": "phi-4"}}}
    return Run(workspace=parse_workspace(manifest, source="test"), preset=preset, config=None)


@pytest.mark.parametrize(
    ("context_tokens", "cache_gib"), [(2048, 2), (4096, 4), (131072, 4), (None, 4)]
)
def test_a_server_holds_its_weights_and_one_context_of_at_most_4096_tokens(
    context_tokens: int | None, cache_gib: int
) -> None:
    preset = TEN_GIB.model_copy(update={"context_tokens": context_tokens})
    assert memory_here_gib(served(preset), HERE) == pytest.approx(1.1 + 10.2 + cache_gib)


def test_the_memory_of_a_model_of_no_known_size_is_not_known() -> None:
    assert memory_here_gib(served(UNKNOWN), HERE) is None
    assert memory_here_gib(tuned(UNKNOWN), HERE) is None
    assert fit_on(tuned(UNKNOWN), T4) == Fit(sku=T4, peak_gib=None)
    assert fit_on(served(UNKNOWN), T4) == Fit(sku=T4, peak_gib=None)


def test_where_the_machine_is_not_known_the_least_that_the_run_can_do_with_is_told() -> None:
    run = tuned(TEN_GIB)
    least = memory_here_gib(run, None)
    one_row = fit_on(tuned(TEN_GIB, per_device_train_batch_size=1), T4)
    assert least
    assert one_row.peak_gib == pytest.approx(least)
    assert least < (memory_here_gib(run, HERE) or 0)


def test_a_batch_that_the_user_names_is_the_least_there_is() -> None:
    one = memory_here_gib(tuned(TEN_GIB), None)
    four = memory_here_gib(tuned(TEN_GIB, per_device_train_batch_size=4), None)
    assert one
    assert four
    assert one < four


def test_activations_that_the_user_keeps_are_not_recomputed_to_save_memory() -> None:
    run = tuned(TEN_GIB, gradient_checkpointing="false")
    assert (memory_here_gib(run, None) or 0) > (memory_here_gib(tuned(TEN_GIB), None) or 0)
    fit = fit_on(run, T4)
    assert fit.batch
    assert not fit.batch.gradient_checkpointing


def test_on_a_machine_that_is_too_small_the_batch_that_was_wanted_is_told() -> None:
    tiny = HERE.model_copy(update={"memory_gib": 1.0})
    assert memory_here_gib(tuned(), tiny) == memory_here_gib(tuned(), HERE)


def test_a_processor_without_bfloat16_holds_the_run_in_32_bits() -> None:
    quick, run = HERE.model_copy(update={"has_bf16": True}), tuned(method="qlora")
    assert run.config
    in_16, in_32 = memory_here_gib(run, quick), memory_here_gib(run, HERE)
    assert in_16 == pytest.approx(3.85, abs=0.01)
    assert in_32 == pytest.approx(5.36, abs=0.01)
    asked = replace(run.config, model=ModelSettings(torch_dtype="float32"))
    assert memory_here_gib(replace(run, config=asked), quick) == in_32


def test_a_machine_takes_the_largest_batch_that_fits_and_recomputes_where_it_must() -> None:
    batches = [fit_on(tuned(preset), T4).batch for preset in (SMALL, TEN_GIB)]
    assert [batch and (batch.rows, batch.gradient_checkpointing) for batch in batches] == [
        (8, False),
        (5, True),
    ]
    assert all(batch and batch.on_gpu for batch in batches)


def test_a_run_that_fits_in_no_batch_is_told_with_the_least_that_it_takes() -> None:
    run = tuned(TEN_GIB.model_copy(update={"size_gib": 40}))
    fit = fit_on(run, T4)
    assert not fit.does_fit
    assert fit.batch
    assert run.shape
    assert (fit.batch.rows, fit.batch.gradient_checkpointing) == (1, True)
    assert fit.peak_gib == tuning_memory_gib(run.shape, fit.batch)


def card(usable_gib: float, *, gpus: int = 1) -> Sku:
    """A machine with cards of which a program can have so much."""
    on_data_sheet = usable_gib / (T4.model_copy(update={"gpu": "own"}).usable_gib / 16)
    changes = {"gpu": "own", "gpus": gpus, "gpu_memory_gib": on_data_sheet}
    return T4.model_copy(update=changes)


def test_a_run_fits_that_leaves_a_twentieth_of_a_gpu_free() -> None:
    run = tuned(TEN_GIB)
    needed_gib = (memory_here_gib(run, None) or 0) / 0.95
    assert fit_on(run, card(needed_gib + 0.01)).does_fit
    assert not fit_on(run, card(needed_gib - 0.01)).does_fit


def test_a_run_is_tuned_on_all_gpus_of_its_machine_each_of_which_holds_the_model() -> None:
    fit, too_small = (fit_on(tuned(TEN_GIB), card(gib, gpus=4)) for gib in (40.0, 6.0))
    assert (fit.processes, fit.gpus, fit.does_fit) == (4, 1, True)
    assert fit.available_gib == pytest.approx(40.0)
    assert not too_small.does_fit


def test_a_run_takes_one_gpu_of_a_machine_that_others_use_unless_it_asks_for_more() -> None:
    shared = replace(tuned(TEN_GIB), shares_gpus=True)
    assert fit_on(shared, card(40.0, gpus=4)).processes == 1
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaitoflow.io/gpus": "2"}
    asking = replace(shared, workspace=parse_workspace(manifest, source="test"))
    assert fit_on(asking, card(40.0, gpus=4)).processes == 2
    assert not fit_on(asking, card(40.0)).does_fit


@pytest.mark.parametrize(
    "setting",
    [
        {"packing": "true"},
        {"dataloader_drop_last": "true"},
        {"use_cpu": "true"},
        {"save_strategy": "best", "eval_strategy": "epoch"},
        {"eval_strategy": "epoch"},
    ],
    ids=str,
)
def test_a_run_whose_steps_depend_on_how_rows_are_put_together_takes_one_gpu(
    setting: dict[str, Any],
) -> None:
    assert fit_on(tuned(TEN_GIB, **setting), card(40.0, gpus=4)).processes == 1


def test_a_server_is_spread_over_gpus_where_one_does_not_hold_it() -> None:
    alone, spread = (fit_on(served(TEN_GIB), card(gib, gpus=4)) for gib in (40.0, 6.0))
    assert (alone.gpus, spread.gpus) == (1, 4)
    assert spread.available_gib == pytest.approx(24.0)


@pytest.mark.parametrize(("size_gib", "nodes", "does_fit"), [(5, 1, True), (11, 2, False)])
def test_a_server_fits_where_one_node_holds_it(
    size_gib: float, nodes: int, *, does_fit: bool
) -> None:
    run = served(TEN_GIB.model_copy(update={"size_gib": size_gib, "kv_bytes_per_token": None}))
    fit = fit_on(run, T4)
    assert (fit.nodes, fit.does_fit, fit.batch) == (nodes, does_fit, None)
    assert fit.peak_gib == memory_here_gib(run, None)


def test_a_server_s_cache_takes_its_room_beside_the_weights() -> None:
    without_cache = TEN_GIB.model_copy(update={"kv_bytes_per_token": None})
    assert [fit_on(served(each), T4).nodes for each in (without_cache, TEN_GIB)] == [1, 2]


def not_served() -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaito.sh/serve": "false"}
    return parse_workspace(manifest, source="test")


def test_a_tuned_model_that_is_served_needs_room_for_its_whole_weights() -> None:
    run = tuned(TEN_GIB.model_copy(update={"size_gib": 15}), method="qlora")
    assert serving_lacks_gib(run, T4) == pytest.approx(1.1 + 15.3 + 2 - 14.6)
    assert serving_lacks_gib(run, A100) is None
    tuned_only = Run(workspace=not_served(), preset=run.preset, config=run.config)
    assert serving_lacks_gib(tuned_only, T4) is None
    assert serving_lacks_gib(served(run.preset), T4) is None
    assert serving_lacks_gib(tuned(UNKNOWN), T4) is None


def test_what_just_fits_lacks_nothing() -> None:
    assert serving_lacks_gib(tuned(TEN_GIB), card(1.1 + 10.2 + 2.01)) is None


def test_the_tokens_of_all_epochs_are_trained_on() -> None:
    assert tuned(tokens=1000, num_train_epochs=2.5).trained_tokens == 2500
    assert tuned(tokens=None).trained_tokens is None
    assert served(SMALL).trained_tokens is None


def test_time_here_grows_with_the_tokens_and_with_a_fixed_part() -> None:
    low, high = seconds_here(tuned(tokens=1_000_000), HERE) or (0, 0)
    twice = seconds_here(tuned(tokens=2_000_000), HERE) or (0, 0)
    assert (twice[0] - low, twice[1] - high) == pytest.approx((low - 25, high - 90))
    assert (high - 90) / (low - 25) == pytest.approx(2 / 0.7)
    faster = HERE.model_copy(update={"cores": 4})
    half = seconds_here(tuned(tokens=1_000_000), faster) or (0, 0)
    assert half[0] - 25 == pytest.approx((low - 25) / 2)


@pytest.mark.parametrize(
    ("run", "node"),
    [(tuned(tokens=None), HERE), (tuned(UNKNOWN, tokens=10), HERE), (tuned(tokens=10), None)],
)
def test_without_tokens_a_size_or_a_machine_no_time_is_told(run: Run, node: Node | None) -> None:
    assert seconds_here(run, node) is None


def test_a_server_is_there_after_the_fixed_part() -> None:
    assert seconds_here(served(SMALL), HERE) == (25, 90)
    assert seconds_here(served(SMALL), None) is None


def on_gpu(run: Run, sku: Sku, *, is_made: bool = False) -> tuple[float, float]:
    return seconds_on(run, fit_on(run, sku), is_made=is_made) or (0, 0)


def test_a_machine_that_is_made_adds_the_minutes_until_it_is_there() -> None:
    run = tuned(tokens=1_000_000)
    own, made = on_gpu(run, T4), on_gpu(run, T4, is_made=True)
    assert (made[0] - own[0], made[1] - own[1]) == pytest.approx((180, 900))
    assert (own[1] - 90) / (own[0] - 25) == pytest.approx(2 / 0.5)


def test_recomputing_and_quantised_weights_take_longer_on_a_gpu() -> None:
    tokens = 10_000_000
    kept = on_gpu(tuned(tokens=tokens, gradient_checkpointing="false"), A100)[0] - 25
    recomputed = on_gpu(tuned(tokens=tokens, gradient_checkpointing="true"), A100)[0] - 25
    quantised = (
        on_gpu(tuned(tokens=tokens, method="qlora", gradient_checkpointing="false"), A100)[0] - 25
    )
    assert recomputed == pytest.approx(1.5 * kept)
    assert quantised == pytest.approx(1.5 * kept)


def test_four_gpus_train_in_a_quarter_of_the_time() -> None:
    run = tuned(TEN_GIB, tokens=10_000_000)
    run = replace(run, preset=TEN_GIB.model_copy(update={"parameters": 5_000_000_000}))
    one, four = (on_gpu(run, A100.model_copy(update={"gpus": n}))[0] - 25 for n in (1, 4))
    assert four == pytest.approx(one / 4)


def test_no_time_is_told_of_a_gpu_whose_speed_is_not_known_nor_of_a_run_without_tokens() -> None:
    strange = T4.model_copy(update={"gpu": "MI300X"})
    assert seconds_on(tuned(tokens=10), fit_on(tuned(), strange), is_made=False) is None
    assert seconds_on(tuned(), fit_on(tuned(), T4), is_made=False) is None
    assert seconds_on(served(SMALL), fit_on(served(SMALL), T4), is_made=False) is None
