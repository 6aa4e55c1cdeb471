"""A sweep tries all combinations of what is named, a few of them, and keeps the lowest loss."""

import pytest

from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.sweep import Tried, best, parse_sweep, with_settings
from tasks.contract.training_config import parse_training_config

RATE, RANK = "TrainingArguments.learning_rate", "LoraConfig.r"


def test_all_combinations_are_tried_each_setting_in_its_section() -> None:
    assert parse_sweep(["learning_rate=1e-4,2e-4", "r=8,16"]) == [
        {RATE: "1e-4", RANK: 8},
        {RATE: "1e-4", RANK: 16},
        {RATE: "2e-4", RANK: 8},
        {RATE: "2e-4", RANK: 16},
    ]
    assert parse_sweep(["LoraConfig.r=8,16"]) == [{RANK: 8}, {RANK: 16}]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["r"], "no setting with its values"),
        (["r="], "no setting with its values"),
        (["rang=8,16"], "there is no setting rang"),
        (["r=8,16", "LoraConfig.r=4,8"], "LoraConfig.r stands there twice"),
        (["shuffle_seed=1,2"], "would not be measured on the same rows"),
        (["r=8"], r"that is 1 training\(s\); a sweep is of 2 to 8"),
        (["r=1,2,4", "lora_dropout=0,0.1,0.2"], r"that is 9 training\(s\)"),
    ],
)
def test_what_is_no_sweep_or_too_large_a_one_is_refused(asked: list[str], found: str) -> None:
    with pytest.raises(InvalidTuningConfig, match=found):
        parse_sweep(asked)


@pytest.mark.parametrize(
    "text", [None, "", "training_config: {LoraConfig: {r: 4, lora_alpha: 64}, DatasetConfig: }"]
)
def test_settings_take_the_place_of_the_workspace_s_own_and_leave_the_rest(
    text: str | None,
) -> None:
    written = with_settings(text, {RATE: "3e-4", RANK: 32})
    config = parse_training_config(written, method="lora")
    assert (config.training["learning_rate"], config.lora_rank) == (3e-4, 32)
    assert config.lora["lora_alpha"] == (64 if text else 16)


def test_the_lowest_loss_is_the_best_and_what_has_none_is_not() -> None:
    tried = [
        Tried(settings={RANK: 4}, why="TrainingDiverged: its loss is nan"),
        Tried(settings={RANK: 8}, loss_before=3.0, loss=2.5),
        Tried(settings={RANK: 16}, loss_before=3.0, loss=2.0),
        Tried(settings={RANK: 32}, loss_before=3.0, loss=2.0),
    ]
    assert best(tried) is tried[2]
    assert best(tried[:1]) is None
    perfect = Tried(settings={RANK: 64}, loss_before=3.0, loss=0.0)
    assert best([Tried(settings={RANK: 4}, loss=0.5), perfect]) is perfect
