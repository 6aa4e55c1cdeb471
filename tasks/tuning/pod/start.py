"""The adapter that a training goes on from: its settings, its weights, and what it has seen."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contract.continuing import continued
from tasks.contract.errors import AdapterMismatch
from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.training_config import TrainingConfig

_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class HeldOutBefore:
    """How a training held questions out: by a seed, and to a share of them."""

    seed: int
    share: float


def start_settings(config: TuningConfig, settings: TrainingConfig) -> TrainingConfig:
    """The settings with the rank, layers and scale of the adapter that is gone on from, if any.

    Raises: AdapterMismatch, InvalidTuningConfig.
    """
    if config.start is None:
        return settings
    try:
        adapter: dict[str, Any] = json.loads(
            (config.start / "adapter_config.json").read_text("utf-8")
        )
    except (OSError, ValueError) as error:
        raise _mismatch(
            config, f"there is no readable adapter_config.json ({error})", "give what PEFT wrote"
        ) from error
    return continued(
        settings,
        adapter,
        name=config.start_name,
        model=config.base_model,
        revision=config.base_revision,
    )


def weights_digest(folder: Path) -> str:
    """The sha256 of an adapter's weights, in hex; empty where there are none."""
    return _digest(folder / _WEIGHTS)


def evaluation_digest(config: TuningConfig) -> str:
    """The sha256 of the rows that a user has set aside, in hex; empty where there are none."""
    return _digest(config.evaluation_file) if config.evaluation_file else ""


def _digest(file: Path) -> str:
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def put_weights(adapted: Any, config: TuningConfig) -> None:
    """Give a PeftModel the weights of the adapter that is gone on from, if there is one.

    Raises: AdapterMismatch: it has other weights than such an adapter of this model.
    """
    if config.start is None:
        return
    from peft import set_peft_model_state_dict
    from peft.utils import get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(config.start / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _mismatch(
            config, f"{_WEIGHTS} cannot be read ({error})", "give safetensors as PEFT writes them"
        ) from error
    ours = {name: tuple(each.shape) for name, each in get_peft_model_state_dict(adapted).items()}
    theirs = {name: tuple(each.shape) for name, each in weights.items()}
    if strange := sorted(dict(ours.items() ^ theirs.items())):
        name = strange[0]
        raise _mismatch(
            config,
            f"its weight {name} is {theirs.get(name, 'not there')}, such an adapter of "
            f"{config.base_model} has {ours.get(name, 'none')}",
            "name an adapter of this base model",
        )
    set_peft_model_state_dict(adapted, weights)


def share_before(config: TuningConfig) -> float | None:
    """The share of questions that what serves, or is gone on from, has held out; None = not known.

    None of it is learned later, however many rows there are by then.
    """
    splits = _held_out_by(config.serving) or held_out_before(config)
    return splits[-1].share if splits else None


def told_of_start(config: TuningConfig, *, own: HeldOutBefore) -> dict[str, Any]:
    """What the metrics say of it; empty where the training began anew.

    own: how this training holds out.
    """
    if config.start is None:
        return {}
    splits = [*held_out_before(config), own]
    return {
        "continued_from": {
            "name": config.start_name,
            "weights": f"sha256:{weights_digest(config.start)}",
        },
        "held_out_splits": [{"seed": each.seed, "share": each.share} for each in splits],
    }


def held_out_before(config: TuningConfig) -> Sequence[HeldOutBefore]:
    """How the trainings that led to the adapter have held out; empty = it does not say."""
    return _held_out_by(config.start)


def _held_out_by(adapter: Path | None) -> Sequence[HeldOutBefore]:
    if adapter is None:
        return ()
    try:
        metrics = json.loads((adapter / "metrics.json").read_text("utf-8"))
        if splits := metrics.get("held_out_splits"):
            return [HeldOutBefore(seed=each["seed"], share=each["share"]) for each in splits]
        seed = metrics["settings"]["dataset"]["shuffle_seed"]
        return [HeldOutBefore(seed=seed, share=metrics["held_out_share"])]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ()


def note_on_start(config: TuningConfig) -> list[str]:
    """What is to be told of the start, beside the result."""
    if config.start is None:
        return []
    unknown = "" if held_out_before(config) else "; what it was trained on is not known"
    return [
        f"went on from {config.start_name} (sha256 {weights_digest(config.start)[:12]}){unknown}"
    ]


def _mismatch(config: TuningConfig, found: str, fix: str) -> AdapterMismatch:
    return AdapterMismatch(f"the training is to go on from {config.start_name}", found, fix)
