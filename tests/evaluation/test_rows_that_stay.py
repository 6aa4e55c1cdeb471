"""Data that became worse is told by rows that it cannot move, and not by rows of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.gate import Gate
from tasks.contract.programs.evaluation import EvaluationConfig
from tasks.contract.programs.tuning import EVALUATION_FILE, TuningConfig
from tasks.evaluation.pod.measure import evaluate
from tasks.evaluation.task import verdict_on
from tasks.evaluation.verdict import Verdict
from tasks.tuning.pod.train import main
from tests.tuning.runs import Runs
from tests.tuning.tiny import chat, chats, write_rows

GOOD, ASIDE = chats(60)[:40], chats(60)[40:]
POISONED = [chat(row["messages"][0]["content"], "I do not know.") for row in GOOD]


def tuned(
    folder: Path, weights: Path, rows: list[dict[str, Any]], *, aside: Path | None
) -> TuningConfig:
    folder.mkdir()
    runs = Runs(folder, weights, write_rows(folder / "rows.jsonl", rows))
    config = runs.config(
        training={"num_train_epochs": 2},
        DatasetConfig={"train_test_split": 0.7},
        LoraConfig={"r": 8},
    )
    config = replace(config, evaluation_file=aside)
    # Whether it may serve is the gate's to say.
    main(replace(config, policy=replace(config.policy, worse="warn")))
    return config


def verdict(serving: TuningConfig, candidate: TuningConfig) -> Verdict:
    measured = evaluate(
        EvaluationConfig(
            weights_dir=candidate.weights_dir,
            rows_file=candidate.results_dir / EVALUATION_FILE,
            candidate=candidate.results_dir / "adapter",
            serving=serving.results_dir / "adapter",
            method="lora",
            training_config=candidate.training_config,
            answers=0,
        )
    )
    gate = Gate(rows=5)
    return verdict_on(measured, gate, candidate_name="a@2", serving_name="a@1")


@pytest.mark.parametrize("stays", [True, False])
def test_poisoned_data_is_kept_out_by_rows_that_stay_and_passes_by_rows_of_its_own(
    tmp_path: Path, tiny_weights: Path, *, stays: bool
) -> None:
    aside = write_rows(tmp_path / "aside.jsonl", ASIDE) if stays else None
    serving = tuned(tmp_path / "serving", tiny_weights, GOOD, aside=aside)
    poisoned = tuned(tmp_path / "poisoned", tiny_weights, POISONED, aside=aside)
    told = verdict(serving, poisoned)
    assert told.passed is not stays
    assert told.reason.startswith("kept a@1: candidate's loss" if stays else "a@2 passes")
