"""A training that goes on from an adapter begins where that one ended, and measures fairly."""

import json
from dataclasses import replace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tasks.contract.errors import AdapterMismatch
from tasks.contract.programs.tuning import TuningConfig
from tasks.tuning.pod.train import main
from tests.tuning.runs import Runs, losses

HOLDS_OUT = {"train_test_split": 0.75}


def tuned(runs: Runs, name: str, *, training: dict[str, Any] | None = None) -> TuningConfig:
    config = runs.config(name, DatasetConfig=HOLDS_OUT, training=training)
    main(config)
    return config


def going_on(
    runs: Runs, before: TuningConfig, name: str = "after", **sections: dict[str, Any]
) -> TuningConfig:
    config = runs.config(name, **{"DatasetConfig": HOLDS_OUT, **sections})
    return replace(config, start=before.results_dir / "adapter", start_name="r.io/a:1")


def metrics(config: TuningConfig) -> Any:
    return json.loads((config.results_dir / "adapter" / "metrics.json").read_text())


def test_it_begins_where_the_adapter_ended_and_says_so(runs: Runs) -> None:
    before = tuned(runs, "before", training={"num_train_epochs": 2})
    after = going_on(runs, before)
    result = main(after)
    first, *_, last = losses(before)
    assert abs(losses(after)[0] - last) < 0.2 < first - last
    told = metrics(after)["continued_from"]
    assert told["name"] == "r.io/a:1"
    assert any(note.startswith("went on from r.io/a:1 (sha256 ") for note in result["notes"])
    card = (after.results_dir / "adapter" / "README.md").read_text()
    assert f"going on from the adapter `r.io/a:1` (`{told['weights']}`)" in card


def test_its_rank_and_layers_are_the_adapter_s(runs: Runs) -> None:
    narrow = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    before = runs.config("before", LoraConfig=narrow)
    main(before)
    after = replace(going_on(runs, before), method="qlora")
    main(after)
    written = json.loads((after.results_dir / "adapter" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["target_modules"]) == (2, 4, ["q_proj"])


def test_what_the_adapter_was_trained_on_is_not_measured(runs: Runs) -> None:
    before = tuned(runs, "before")
    same = going_on(runs, before)
    assert main(same)["held_out"]["rows"] == metrics(before)["rows"]["held_out"]
    other = going_on(runs, same, "other", DatasetConfig=HOLDS_OUT | {"shuffle_seed": 7})
    main(other)
    assert metrics(other)["held_out_splits"] == [
        {"seed": 42, "share": 0.25},
        {"seed": 42, "share": 0.25},
        {"seed": 7, "share": 0.25},
    ]
    all_rows = runs.config("all")
    main(all_rows)
    none = main(going_on(runs, all_rows, "none"))
    assert none["held_out"] is None
    assert none["held_out_missing"] == "r.io/a:1 was trained on all rows that are held out now"


def test_another_adapter_makes_another_run(runs: Runs) -> None:
    before = tuned(runs, "before")
    after = going_on(runs, before)
    assert main(after)["steps"]
    first = metrics(after)["continued_from"]["weights"]
    weights = before.results_dir / "adapter" / "adapter_model.safetensors"
    save_file({name: each * 0.5 for name, each in load_file(weights).items()}, weights)
    main(after)
    assert metrics(after)["continued_from"]["weights"] != first


def test_weights_that_do_not_fit_the_model_are_refused(runs: Runs) -> None:
    before = tuned(runs, "before")
    weights = before.results_dir / "adapter" / "adapter_model.safetensors"
    loaded = load_file(weights)
    del loaded[min(loaded)]
    save_file(loaded, weights)
    with pytest.raises(AdapterMismatch, match="is not there, such an adapter of tests/tiny has"):
        main(going_on(runs, before))


def test_an_adapter_of_another_base_is_refused_before_a_model_is_loaded(runs: Runs) -> None:
    before = tuned(runs, "before")
    after = replace(going_on(runs, before), base_model="tests/other")
    with pytest.raises(AdapterMismatch, match="made for tests/tiny"):
        main(after)
