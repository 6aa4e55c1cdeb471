"""The real small model, quantised, through the real program."""

import json
from pathlib import Path

import pytest

from tests.tuning.runs import Runs
from tests.tuning.tiny import chat, write_rows

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Peru": "Lima",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Cuba": "Havana",
    "Ghana": "Accra",
    "Norway": "Oslo",
}


@pytest.mark.slow
def test_a_quantised_run_learns_the_form_of_answers_and_to_stop(
    smollm2_weights: Path, tmp_path: Path
) -> None:
    rows = [chat(f"What is the capital of {land}?", f"{city}!!") for land, city in CAPITALS.items()]
    file = write_rows(tmp_path / "train.jsonl", rows)
    training = {"per_device_train_batch_size": 7, "learning_rate": 2e-3, "num_train_epochs": 9}
    runs = Runs(tmp_path, weights_dir=smollm2_weights, train_file=file)
    said = runs.finish(
        runs.config(method="qlora", training=training, DatasetConfig={"train_test_split": 0.7})
    )
    assert said.code == 0, said.log
    held_out = said.last["held_out"]
    assert held_out["loss_after"] < held_out["loss_before"] / 2
    assert held_out["answers"]["stopped_after"] == held_out["answers"]["asked"] > 0
    assert held_out["sample"]["after"].endswith("!!")
    assert "kernels-community" not in said.log + json.dumps(said.events)
