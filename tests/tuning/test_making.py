"""What is noted of how an adapter was made: its files, its settings by name, its price."""

from pathlib import Path

import pytest

from tasks.config_map import TRAINING_CONFIG_KEY
from tasks.contract.artifacts import Dataset, TunedAdapter
from tasks.contract.held_cost import HeldMachine
from tasks.contract.programs.dataset import BadRows, DatasetFile, DatasetReport, TokenSpread
from tasks.contract.programs.tuning import RowCounts, TuningResult
from tasks.platform.base import Pod
from tasks.tuning.making import making_of
from tests.builders import tuning_workspace

CONFIG = "training_config: {LoraConfig: {r: 16}, ModelConfig: {chat_template: '%s'}}" % ("x" * 99)
POD = Pod(name="tuning", containers=(), files={TRAINING_CONFIG_KEY: CONFIG})
ADAPTER = TunedAdapter(
    metrics=TuningResult(
        adapter=Path("adapter"),
        steps=1,
        final_loss=1.0,
        history=(),
        tokens=1,
        rows=RowCounts(trained=1, held_out=0, cut=0, dropped=0),
        held_out=None,
        tokens_per_s=1.0,
        peak_memory_gib=1.0,
        seconds=1800.0,
    )
)


def dataset(files: int = 1) -> Dataset:
    report = DatasetReport(
        digest="d",
        rows=40,
        tokens=TokenSpread(total=1, min=1, median=1, p95=1, max=1),
        truncated_rows=0,
        duplicate_rows=0,
        max_length=1024,
        bad_rows=BadRows(total=0, listed=()),
        files=tuple(
            DatasetFile(name=f"{n}", url=None, bytes=7, sha256=f"s{n}", format="json")
            for n in range(files)
        ),
        train_sha256="t",
    )
    return Dataset(digest=report.digest, rows=report.rows, report=report)


def machine(price: float | None) -> HeldMachine:
    return HeldMachine(
        name="wsa",
        node="gpu-1",
        instance_type="A",
        capacity_type="spot",
        price_per_hour=price,
        since="2026-01-01T12:00:00Z",
    )


def test_settings_are_told_by_name_those_of_the_user_and_the_defaults() -> None:
    made = making_of(tuning_workspace(), POD, dataset(), ADAPTER, run="r", node="", machines=())
    assert made.settings["LoraConfig.r"] == "16"
    assert made.settings["LoraConfig.lora_alpha"] == "16"
    assert made.settings["tuning.method"] == "qlora"
    assert made.settings["base model"].startswith("HuggingFaceTB/SmolLM2-135M-Instruct@")
    assert made.settings["ModelConfig.chat_template"].startswith("99 characters, sha256 ")


def test_files_are_told_with_their_digests_and_of_very_many_none() -> None:
    few, many = (
        making_of(tuning_workspace(), POD, dataset(count), ADAPTER, run="r", node="", machines=())
        for count in (2, 21)
    )
    assert [(mark.name, mark.bytes, mark.digest) for mark in few.files] == [
        ("0", 7, "s0"),
        ("1", 7, "s1"),
    ]
    assert (many.files, many.rows) == ((), 40)


@pytest.mark.parametrize(
    ("node", "price", "told"),
    [("gpu-1", 3.0, 1.5), ("gpu-1", None, None), ("gpu-2", 3.0, None), ("", 3.0, None)],
)
def test_the_price_is_that_of_the_machine_for_as_long_as_the_tuning_took(
    node: str, price: float | None, told: float | None
) -> None:
    machines = (machine(price),)
    made = making_of(
        tuning_workspace(), POD, dataset(), ADAPTER, run="r", node=node, machines=machines
    )
    assert made.price_usd == told
