"""The rows of one run: read, split, tokenised, and those that are measured left for others."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tasks.contract.errors import DatasetRowsInvalid
from tasks.contract.evaluation_data import EVALUATION_DATA_ANNOTATION
from tasks.contract.programs.tuning import EVALUATION_FILE, TuningConfig
from tasks.contract.training_config import TrainingConfig
from tasks.estimate.positions import read_positions
from tasks.tuning.pod.data import Examples, Row, read_rows, tokenise
from tasks.tuning.pod.model import load_tuning_tokenizer
from tasks.tuning.pod.split import Split, held_out_as_well, split_beside, split_rows
from tasks.tuning.pod.start import held_out_before, share_before

log = logging.getLogger(__name__)

# More rows are held out and measured for a verdict; for a look at what changed these are enough.
_COMPARED_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one run, tokenised; held_out: those of its measured rows that are compared."""

    tokenizer: PreTrainedTokenizerBase
    split: Split
    train: Examples
    held_out: Examples
    held_out_rows: list[Row]


def rows_of_run(config: TuningConfig, settings: TrainingConfig, *, keeps: bool) -> Rows:
    """The rows. Args: keeps: also leave those that are measured beside the adapter."""
    tokenizer = load_tuning_tokenizer(config.weights_dir, settings)
    max_length = min(settings.max_length, read_positions(config.weights_dir) or settings.max_length)
    rows = read_rows(config.train_file)
    if config.evaluation_file:
        aside = read_rows(config.evaluation_file)
        split = _trainable(split_beside(rows, aside, settings.dataset), config)
        rows += aside
    else:
        split = split_rows(rows, settings.dataset, share_before=share_before(config))
        split = _unseen(split, rows, config)
    if keeps:
        _keep_measured(config.results_dir, [rows[place] for place in split.measured])
    compared = split.measured[:_COMPARED_ROWS]
    train, held_out = (
        tokenise(
            [rows[place] for place in places],
            tokenizer,
            max_length=max_length,
            numbers=[place + 1 for place in places],
            may_be_silent=places is compared,
        )
        for places in (split.trained, compared)
    )
    log.info(
        "rows read train=%d held_out=%d resembling=%d left_out=%d compared=%d examples=%d cut=%d"
        " dropped=%d",
        train.rows,
        split.held_out,
        split.resembling,
        split.left_out,
        held_out.rows,
        len(train.examples) + len(held_out.examples),
        train.cut,
        train.dropped,
    )
    return Rows(
        tokenizer=tokenizer,
        split=split,
        train=train,
        held_out=held_out,
        held_out_rows=[rows[place] for place in compared],
    )


def _trainable(split: Split, config: TuningConfig) -> Split:
    """The split, if it leaves a row to train on."""
    if not split.trained:
        raise DatasetRowsInvalid(
            f"{split.left_out} rows of {config.train_file} were to be trained on",
            f"the evaluation data ({EVALUATION_DATA_ANNOTATION}) asks what each of them asks",
            "name evaluation data that is apart from tuning.input, or add rows to train on",
        )
    return split


def _unseen(split: Split, rows: Sequence[Row], config: TuningConfig) -> Split:
    """The split without measured rows that the adapter which is gone on from was trained on."""
    measured = split.measured
    for before in held_out_before(config):
        measured = held_out_as_well(rows, measured, seed=before.seed, share=before.share)
    if measured or not split.measured:
        return replace(split, measured=measured)
    missing = f"{config.start_name} was trained on all rows that are held out now"
    return replace(split, measured=[], missing=missing)


def _keep_measured(results_dir: Path, rows: Sequence[Row]) -> None:
    """Leave the rows that are measured beside the adapter, for whoever compares it with another."""
    results_dir.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (results_dir / EVALUATION_FILE).write_text(lines, encoding="utf-8")
