"""Scores a candidate with tasks of lm-eval, as the command of a gate (docs/retuning.md).

Prints one line: each model's score of each question, in the same order. Belongs into an image that
has lm-eval and PEFT; needs nothing of Kaitoflow.

    python lm_eval_score.py arc_easy hellaswag --metric acc_norm --limit 200
"""

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any

Samples = Mapping[str, list[dict[str, Any]]]


def main() -> None:
    """Evaluate each model that the gate names, and print what it scored."""
    parser = argparse.ArgumentParser(description="Score a candidate with tasks of lm-eval.")
    parser.add_argument("tasks", nargs="+", help="names of lm-eval's tasks, such as arc_easy")
    parser.add_argument("--metric", default="acc", help="of each question, such as acc_norm")
    parser.add_argument("--limit", type=int, help="questions of each task; without it all")
    parser.add_argument("--batch-size", default="auto")
    parser.add_argument("--include-path", help="a folder with tasks of your own")
    asked = parser.parse_args()
    print(json.dumps(scores_by_model(asked)))


def scores_by_model(asked: argparse.Namespace) -> dict[str, list[float]]:
    """The score of each question, by each model that the gate names."""
    from lm_eval.tasks import TaskManager

    known = TaskManager(include_path=asked.include_path)  # which reads thousands of files
    return {
        model: scores_of(evaluated(asked, adapter, known), asked.metric)
        for model, adapter in models().items()
    }


def models() -> dict[str, str | None]:
    """The folder of each model's adapter; the base model has none."""
    names = {"candidate": "KAITOFLOW_GATE_CANDIDATE", "serving": "KAITOFLOW_GATE_SERVING"}
    there = {model: os.environ[name] for model, name in names.items() if name in os.environ}
    return {**there, "base": None}


def evaluated(asked: argparse.Namespace, adapter: str | None, known: Any) -> Samples:
    """What lm-eval keeps of each question of each task."""
    import lm_eval
    import torch

    model = {"pretrained": os.environ["KAITOFLOW_GATE_WEIGHTS"]}
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args=model | ({"peft": adapter} if adapter else {}),
        tasks=asked.tasks,
        task_manager=known,
        limit=asked.limit,
        batch_size=asked.batch_size,
        device="cuda" if torch.cuda.is_available() else "cpu",
        log_samples=True,
        bootstrap_iters=0,
    )
    samples: Samples = results["samples"]
    return samples


def scores_of(samples: Samples, metric: str) -> list[float]:
    """The metric of each question, task by task; of several filters the first of each."""
    scores = []
    for task in sorted(samples):
        of_questions = {each["doc_id"]: each for each in reversed(samples[task])}
        scores += [float(of_questions[question][metric]) for question in sorted(of_questions)]
    return scores


if __name__ == "__main__":
    main()
