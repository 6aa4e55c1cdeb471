"""What crosses the border between control and pods is changed by nobody, and read by name."""

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import pytest

from tasks.contract import programs, shapes
from tasks.contract.image_reference import Reference
from tasks.contract.programs.dataset import DatasetConfig
from tasks.contract.programs.evaluation import EvaluationConfig, Sanity
from tasks.contract.programs.image import PullConfig, PushConfig, TagConfig
from tasks.contract.programs.serving import AdapterSource, ServerConfig
from tasks.contract.programs.tuning import RowCounts, Sample, TuningConfig
from tasks.contract.shapes import ModelShape, TuningShape

MODULES = [
    importlib.import_module(f"{programs.__name__}.{each.name}")
    for each in pkgutil.iter_modules(programs.__path__)
]
TOLD = [
    kind
    for module in (*MODULES, shapes)
    for _, kind in inspect.getmembers(module, dataclasses.is_dataclass)
    if kind.__module__ == module.__name__
]
# Short ones, whose parts are in an order that everybody knows.
BY_PLACE = {"AdapterSource", "DatasetColumns"}


@pytest.mark.parametrize("kind", TOLD, ids=lambda kind: kind.__name__)
def test_what_a_program_is_told_or_answers_is_frozen_and_named(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
    by_name = all(field.kw_only for field in dataclasses.fields(kind))
    assert by_name == (kind.__name__ not in BY_PLACE)


def test_a_name_of_an_image_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Reference("r", "a", "1").tag = "2"  # type: ignore[misc]


HERE = Path("here")
# What a program does that is told nothing more: who wants more, or less care, has to say so.
DEFAULTS: list[tuple[Any, dict[str, Any]]] = [
    (
        DatasetConfig(data_dir=HERE, weights_dir=HERE),
        {
            "allow_files": False,
            "allow_local_addresses": False,
            "bad_rows_tolerance": 0,
            "max_bytes": 50 * 2**30,
            "max_length": 1024,
        },
    ),
    (
        PushConfig(adapter_dir=HERE, reference="r", layout_dir=HERE),
        {
            "push": False,
            "docker_config": None,
            "insecure": (),
            "patience_s": 120,
            "denied_patience_s": 0,
        },
    ),
    (PullConfig(reference="r", target_dir=HERE), {"insecure": (), "patience_s": 120}),
    (
        TagConfig(reference="r", digest="d", layout_dir=HERE),
        {"push": False, "insecure": (), "patience_s": 120, "denied_patience_s": 0},
    ),
    (
        TuningConfig(
            weights_dir=HERE,
            base_model="m",
            base_revision="main",
            train_file=HERE,
            method="lora",
            results_dir=HERE,
        ),
        {"gpus": 0, "processes": 1, "training_config": None, "dataset_digest": "", "away": None},
    ),
    (
        Sample(question="q", before="a", after="b"),
        {"stopped_before": False, "stopped_after": False},
    ),
    (
        EvaluationConfig(weights_dir=HERE, rows_file=HERE, candidate=HERE, method="lora"),
        {"serving": None, "max_rows": 128, "answers": 8, "max_new_tokens": 256, "gpus": 0},
    ),
    (Sanity(), {"asked": 0, "empty": 0, "endless": 0, "looping": 0, "foreign": 0}),
    (RowCounts(trained=1, held_out=0, cut=0, dropped=0), {"resembling": 0}),
    (AdapterSource("a", HERE), {"strength": 1.0}),
    (
        ServerConfig(weights_dir=HERE, served_model_name="m"),
        {
            "host": "127.0.0.1",
            "port": 5000,
            "cors_origins": (),
            "max_concurrency": 16,
            "max_queue": 64,
            "max_context_tokens": None,
            "max_loaded_adapters": None,
            "drain_s": 30,
            "idle_s": 600,
            "write_s": 60,
            "gpus": 0,
            "pull_patience_s": 60,
        },
    ),
    (
        TuningShape(),
        {
            "weight_bits": 16,
            "compute_bytes": 2,
            "lora_rank": 8,
            "rows": 1,
            "row_tokens": 1024,
            "gradient_checkpointing": False,
            "on_gpu": False,
        },
    ),
]


@pytest.mark.parametrize(
    ("told", "defaults"), DEFAULTS, ids=[type(told).__name__ for told, _ in DEFAULTS]
)
def test_a_program_that_is_told_nothing_more_opens_nothing_and_spares_nothing(
    told: Any, defaults: dict[str, Any]
) -> None:
    assert {name: getattr(told, name) for name in defaults} == defaults


def test_a_model_of_which_no_more_is_known_has_keys_as_wide_as_queries() -> None:
    shape = ModelShape(parameters=1, layers=1, hidden=1, intermediate=1, vocabulary=1)
    assert (shape.heads, shape.kv_hidden, shape.tied_embeddings) == (0, 0, False)


def test_a_pass_has_the_tokens_of_all_its_rows() -> None:
    assert TuningShape(rows=3, row_tokens=100).tokens == 300
