"""What a Workspace's pods ask of their node follows from model, dataset and what a person says."""

from typing import Any

import pytest

from tasks.contract.programs.dataset import MAX_DATASET_BYTES
from tasks.contract.resources import Amount, Resources
from tasks.contract.training_config import parse_training_config
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.presets import Preset, find_preset
from tasks.resources import (
    largest_dataset_bytes,
    least_needed,
    node_disk_gib,
    serving_grace_s,
    serving_resources,
    startup_s,
    tuning_grace_s,
    tuning_resources,
)
from tasks.settings import Settings
from tests.builders import tuning_manifest

SMALL, LARGE = find_preset("smollm2-135m-instruct"), find_preset("llama-3.3-70b-instruct")
TRAINING = parse_training_config(None, method="qlora")
GIB = 2**30
UNKNOWN = Preset(name="own", model="somebody/own")


def workspace(annotations: dict[str, str] | None = None, **tuning: Any) -> Workspace:
    manifest = tuning_manifest(**tuning)
    manifest["metadata"]["annotations"] = annotations or {}
    return parse_workspace(manifest, source="test")


def tuned(preset: Preset = SMALL, *, gpus: int = 0, **given: Any) -> Resources:
    asked, settings = given.pop("asked", workspace()), Settings(**given.pop("settings", {}))
    return tuning_resources(asked, preset, TRAINING, settings, gpus=gpus, **given)


def served(preset: Preset = SMALL, *, gpus: int = 0, **given: Any) -> Resources:
    asked, settings = given.pop("asked", workspace()), Settings(**given.pop("settings", {}))
    engine = given.pop("engine", "transformers")
    return serving_resources(asked, preset, settings, gpus=gpus, engine=engine)


def amounts(resources: Resources) -> tuple[Amount, ...]:
    return (resources.cpu_cores, resources.memory_gib, resources.disk_gib)


@pytest.mark.parametrize("resources", [tuned(), served()], ids=["tuning", "serving"])
def test_the_small_model_runs_on_a_node_of_four_gib_beside_others(resources: Resources) -> None:
    assert resources.cpu_cores == Amount(0.5)
    assert 1 < resources.memory_gib.asked < 2
    assert 1 < resources.disk_gib.asked < 5


@pytest.mark.parametrize("preset", [SMALL, LARGE, UNKNOWN], ids=lambda preset: preset.name)
@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("of_pod", [tuned, served])
def test_nothing_may_take_less_than_it_asks_for(of_pod: Any, gpus: int, preset: Preset) -> None:
    for amount in amounts(of_pod(preset, gpus=gpus)):
        assert amount.asked > 0
        assert amount.most is None or amount.most >= amount.asked


def test_a_model_in_gpus_takes_little_of_the_machines_own_memory() -> None:
    assert tuned(LARGE, gpus=1).memory_gib.asked < 10
    assert tuned(LARGE, gpus=4).memory_gib.asked == 4 * tuned(LARGE, gpus=1).memory_gib.asked
    assert served(LARGE, gpus=4).memory_gib.asked < 10
    assert tuned(LARGE, gpus=4).cpu_cores.asked == 4


def test_a_gpu_that_is_not_to_be_used_leaves_the_model_in_the_machines_memory() -> None:
    on_cpu = {"pod_environment": {"KAITOFLOW_DEVICE": "cpu"}}
    assert tuned(gpus=1, settings=on_cpu).memory_gib == tuned().memory_gib
    assert served(gpus=1, settings=on_cpu).memory_gib == served().memory_gib


def test_disk_holds_the_weights_at_their_real_size() -> None:
    assert LARGE.size_gib
    for resources in (tuned(LARGE, gpus=4), served(LARGE, gpus=4)):
        assert resources.disk_gib.asked > LARGE.size_gib


def test_what_is_not_known_of_a_model_bounds_nothing() -> None:
    for resources in (tuned(UNKNOWN), served(UNKNOWN)):
        assert [amount.most for amount in amounts(resources)] == [None, None, None]


def test_a_dataset_is_held_in_memory_and_lies_on_the_disk_twice() -> None:
    without, with_rows = tuned(dataset_gib=0), tuned(dataset_gib=1)
    assert with_rows.disk_gib.asked - without.disk_gib.asked == pytest.approx(2)
    assert with_rows.memory_gib.asked > without.memory_gib.asked + 5


def test_a_dataset_of_unknown_size_may_take_what_the_largest_takes() -> None:
    disk = tuned().disk_gib
    assert disk.most is not None
    assert disk.most > 2 * 50 > disk.asked


def test_what_a_workspace_asks_for_goes_before_every_estimate() -> None:
    asked = workspace(
        {
            "kaitoflow.io/cpu": "1500m",
            "kaitoflow.io/memory": "6Gi",
            "kaitoflow.io/ephemeral-storage": "20Gi",
        }
    )
    for resources in (tuned(asked=asked, gpus=2), served(asked=asked)):
        assert amounts(resources) == (Amount(1.5), Amount(6, 6), Amount(20, 20))


def test_an_installation_bounds_what_may_be_taken_by_what_is_asked_for() -> None:
    ratios = {f"pod_{name}_limit_ratio": 2 for name in ("cpu", "memory", "storage")}
    for amount in amounts(tuned(settings=ratios)):
        assert amount.most == 2 * amount.asked


def test_a_node_that_is_made_holds_what_tuning_and_serving_write() -> None:
    assert node_disk_gib(workspace(), SMALL) == 100
    large = node_disk_gib(workspace(), LARGE)
    assert LARGE.size_gib
    assert 2 * LARGE.size_gib < large < 400
    tune_only = workspace({"kaito.sh/serve": "false"})
    assert node_disk_gib(tune_only, LARGE) < large


def test_a_node_is_as_large_as_a_workspace_says_its_pods_are() -> None:
    asked = workspace({"kaitoflow.io/ephemeral-storage": "500Gi"})
    assert node_disk_gib(asked, SMALL) > 1000


def grace_s(
    preset: Preset, text: str | None = None, *, gpus: int = 1, is_sent: bool = False
) -> float:
    training = parse_training_config(text, method="qlora")
    return tuning_grace_s(preset, training, Settings(), gpus=gpus, is_sent=is_sent)


def test_a_trainer_has_time_for_the_step_that_it_is_in() -> None:
    on_cpu = grace_s(SMALL, gpus=0)
    assert grace_s(SMALL) < on_cpu
    longer = "training_config: {TrainingArguments: {max_length: 512}}"
    assert grace_s(SMALL, longer, gpus=0) < on_cpu


def test_a_trainer_has_time_for_its_checkpoint() -> None:
    wide = "training_config: {LoraConfig: {r: 256}}"
    assert grace_s(find_preset("phi-4-mini-instruct"), wide) > 200


def test_a_trainer_has_time_to_send_its_checkpoint_away() -> None:
    large = "training_config: {LoraConfig: {r: 64}}"
    preset = find_preset("phi-4-mini-instruct")
    assert grace_s(preset, large, is_sent=True) > grace_s(preset, large) + 30


def test_no_pod_has_less_time_to_end_than_usual_nor_so_much_that_nobody_waits() -> None:
    assert grace_s(SMALL) == serving_grace_s(Settings(server_drain_s=0)) == 30
    assert grace_s(LARGE) == 300
    assert grace_s(UNKNOWN) == 120


def test_a_server_has_time_for_its_answers() -> None:
    assert serving_grace_s(Settings(server_drain_s=100)) > 100


def test_a_server_has_time_to_read_its_weights_off_a_slow_disk() -> None:
    assert startup_s(SMALL) == 1800
    assert startup_s(LARGE) > startup_s(SMALL)


def room(*, dataset_gib: float | None = None, **given: Any) -> int:
    resources = tuned(dataset_gib=dataset_gib, **given)
    return largest_dataset_bytes(
        given.get("asked", workspace()), SMALL, TRAINING, resources, dataset_gib=dataset_gib
    )


def test_a_dataset_may_be_as_large_as_any_where_disk_is_not_bounded() -> None:
    assert room() == MAX_DATASET_BYTES


def test_a_dataset_and_its_rows_keep_to_the_disk_that_may_be_taken() -> None:
    asked = workspace({"kaitoflow.io/ephemeral-storage": "20Gi"})
    assert 5 * GIB < room(asked=asked) < 7 * GIB
    scant = workspace({"kaitoflow.io/ephemeral-storage": "1Gi"})
    assert 0 < room(asked=scant) < GIB


def test_a_dataset_whose_size_is_known_is_not_refused_for_the_room_that_it_was_given() -> None:
    bounded = {"pod_storage_limit_ratio": 1}
    assert room(dataset_gib=3, settings=bounded) >= 3 * GIB


def test_what_is_needed_is_no_more_than_what_is_asked_for_by_itself() -> None:
    needed = least_needed(workspace(), SMALL, TRAINING, on_gpu=False, dataset_gib=None)
    asked = [tuned(), served()]
    largest = max(each.memory_gib.asked for each in asked)
    assert needed["kaitoflow.io/memory"] == pytest.approx(largest * GIB)
    largest = max(each.disk_gib.asked for each in asked)
    assert needed["kaitoflow.io/ephemeral-storage"] == pytest.approx(largest * GIB)
