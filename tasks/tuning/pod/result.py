"""What is answered of a run: kept for a second start, and judged before it is published."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.contract.errors import NothingLearned
from tasks.contract.podlog import read_answer
from tasks.contract.programs.tuning import HeldOut, TuningConfig
from tasks.contract.training_policy import POLICY_ANNOTATION


def finished_result(results_dir: Path, run: str) -> Mapping[str, Any] | None:
    """What this very run reported when it ended; None if it has not."""
    try:
        written = json.loads((results_dir / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = (results_dir / "adapter" / "adapter_model.safetensors").is_file()
    if written.get("run") != run or not is_whole:
        return None
    result: Mapping[str, Any] = written["result"]
    return result


def keep_result(
    config: TuningConfig,
    metrics: Mapping[str, Any],
    *,
    run: str,
    told: Mapping[str, Any],
    started_s: float,
) -> Mapping[str, Any]:
    """The result's fields, kept in metrics.json: a second start finds them and trains no more."""
    from tasks.tuning.pod.adapter import write_json

    losses = [
        {"step": line["step"], "loss": line["loss"]}
        for line in metrics["history"]
        if "loss" in line
    ]
    names = ("steps", "tokens", "rows", "held_out", "held_out_missing", "weights")
    result = {name: metrics[name] for name in names} | {
        "adapter": str(config.results_dir / "adapter"),
        "final_loss": losses[-1]["loss"],
        "history": losses,
        "seconds": round(time.monotonic() - started_s, 1),
        **told,
    }
    write_json(config.results_dir / "metrics.json", {"run": run, "result": result, **metrics})
    return result


def judged(result: Mapping[str, Any], config: TuningConfig) -> Mapping[str, Any]:
    """The result, if what it says of held-out answers may be published.

    Raises: NothingLearned: it is worse than the base model, and its policy does not let it pass.
    """
    told = result["held_out"]
    if told is None or config.policy.worse == "warn":
        return result
    held_out = read_answer(HeldOut, told)
    if held_out.is_surely_worse:
        raise NothingLearned(
            f"{config.base_model} was tuned in {result['steps']} steps",
            f"the loss on {held_out.rows} held-out answers is {held_out.loss_after:.3f}"
            f"{held_out.verdict}; without the adapter it is {held_out.loss_before:.3f}",
            "lower TrainingArguments.learning_rate, train more or other rows, or, to publish and "
            f'serve it all the same, annotate {POLICY_ANNOTATION}: "worse warn" ({_kept(config)})',
        )
    return result


def _kept(config: TuningConfig) -> str:
    """Why nothing is trained again for that."""
    if config.away:
        return f"no step is trained again: it goes on from what {config.away.reference} keeps"
    return f"nothing is trained again: the adapter lies in {config.results_dir / 'adapter'}"
