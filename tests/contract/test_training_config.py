"""The tuning ConfigMap: what is taken from it, and how it is refused."""

import dataclasses
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import peft
import pytest
import yaml
from transformers.trainer_utils import SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames
from trl.trainer.sft_config import SFTConfig

from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.setting_rules import _peers
from tasks.contract.training_config import TrainingConfig, _accepted, parse_training_config

KAITO_EXAMPLE = """
training_config:
  ModelConfig: {torch_dtype: "bfloat16", local_files_only: true, device_map: "auto"}
  QuantizationConfig:
    load_in_4bit: true
    bnb_4bit_quant_type: "nf4"
    bnb_4bit_compute_dtype: "bfloat16"
    bnb_4bit_use_double_quant: true
  LoraConfig: {r: 8, lora_alpha: 8, lora_dropout: 0.0, target_modules: [q_proj, k_proj]}
  TrainingArguments:
    output_dir: "/mnt/results"
    save_strategy: "epoch"
    per_device_train_batch_size: 2
    ddp_find_unused_parameters: false
  DataCollator: {mlm: true}
  DatasetConfig: {shuffle_dataset: true, train_test_split: 1}
"""
SIMPLE_TYPES = {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict"}


def parse(method: str = "qlora", **sections: Any) -> TrainingConfig:
    text = yaml.safe_dump({"training_config": sections}) if sections else None
    return parse_training_config(text, method=method)


def refusal(method: str = "qlora", **sections: Any) -> str:
    with pytest.raises(InvalidTuningConfig) as raised:
        parse(method, **sections)
    return str(raised.value)


def test_kaitos_example_works_unchanged() -> None:
    config = parse_training_config(KAITO_EXAMPLE, method="qlora")
    assert config.lora["target_modules"] == ["q_proj", "k_proj"]
    assert config.training["per_device_train_batch_size"] == 2
    assert config.dataset.train_test_split == 1
    assert any("DataCollator.mlm is not used" in note for note in config.notes)


def test_without_a_config_map_the_method_has_its_defaults() -> None:
    assert parse().summary == (
        "qlora, 4-bit weights, rank 8, learning rate 0.0002, 1 epoch(s), max_length 1024"
    )
    assert not parse("lora").is_quantized


def test_a_given_value_goes_before_the_default_and_the_rest_stays() -> None:
    config = parse(LoraConfig={"r": 4})
    assert config.lora_rank == 4
    assert config.lora["lora_alpha"] == 16


@pytest.mark.parametrize("method", ["LoRA", "LORA", "lora"])
def test_the_methods_name_is_read_in_any_case(method: str) -> None:
    assert parse(method).method == "lora"


def test_an_unknown_method_is_refused() -> None:
    assert refusal("dpo") == (
        "method 'dpo' was asked for; there are lora and qlora; use one of them"
    )


@pytest.mark.parametrize("written", ["2e-5", "2.0e-5", 2e-5, "0.00002"])
def test_a_number_may_be_written_as_text(written: Any) -> None:
    assert parse(TrainingArguments={"learning_rate": written}).training["learning_rate"] == 2e-5


def test_all_problems_are_told_at_once_and_by_name() -> None:
    said = refusal(
        LoraConfig={"r": 0},
        TrainingArguments={"learning_rat": 1, "max_length": "two"},
        DatasetConfg={},
    )
    assert "LoraConfig.r is 0, it must be a whole number at least 1" in said
    assert "unknown name TrainingArguments.learning_rat (did you mean learning_rate?)" in said
    assert "TrainingArguments.max_length is 'two'" in said
    assert "unknown section 'DatasetConfg' (did you mean DatasetConfig?)" in said


def test_a_name_of_another_section_is_told_where_it_belongs() -> None:
    said = refusal(TrainingArguments={"lora_alpha": 8})
    assert "unknown name TrainingArguments.lora_alpha (it belongs to LoraConfig)" in said


@pytest.mark.parametrize("section", ["ModelConfig", "TrainingArguments"])
def test_code_out_of_a_models_folder_is_refused(section: str) -> None:
    trusting: dict[str, Any] = {section: {"trust_remote_code": True}}
    assert f"{section}.trust_remote_code cannot be used" in refusal(**trusting)
    wary: dict[str, Any] = {section: {"trust_remote_code": False}}
    assert parse(**wary) == parse()


def test_lora_keeps_full_weights() -> None:
    said = refusal("lora", QuantizationConfig={"load_in_8bit": True})
    assert "remove it or use method qlora" in said


def test_qlora_needs_quantised_weights() -> None:
    said = refusal(QuantizationConfig={"load_in_4bit": False})
    assert "load_in_4bit is false with method qlora" in said


def test_four_and_eight_bits_exclude_each_other() -> None:
    said = refusal(QuantizationConfig={"load_in_4bit": True, "load_in_8bit": True})
    assert "keep one" in said


def test_eight_bits_take_the_place_of_the_defaults_four() -> None:
    config = parse(QuantizationConfig={"load_in_8bit": True})
    assert config.quantization == {"load_in_8bit": True}


@pytest.mark.parametrize("path", ["/etc", "/mnt/../etc", "results", "/mntx"])
def test_an_output_dir_outside_mnt_is_refused(path: str) -> None:
    assert "must lie under /mnt" in refusal(TrainingArguments={"output_dir": path})


def test_an_output_dir_under_mnt_is_accepted_and_not_passed_on() -> None:
    config = parse(TrainingArguments={"output_dir": "/mnt/results/mine"})
    assert "output_dir" not in config.training


def test_a_bare_no_is_a_word_where_a_word_is_due() -> None:
    text = "training_config: {TrainingArguments: {save_strategy: no}}"
    assert parse_training_config(text, method="lora").training["save_strategy"] == "no"


def test_names_of_older_releases_are_understood() -> None:
    given = {"evaluation_strategy": "epoch", "warmup_ratio": 0.1, "max_seq_length": 64}
    training = parse(TrainingArguments=given).training
    assert (training["eval_strategy"], training["warmup_steps"]) == ("epoch", 0.1)
    assert training["max_length"] == 64


def test_an_empty_value_asks_for_nothing() -> None:
    assert parse(TrainingArguments={"max_length": None}).max_length == 1024


@pytest.mark.parametrize("text", ["[1]", "a: {", "LoraConfig: {r: 8}", "training_config: 3"])
def test_a_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidTuningConfig, match=r"training_config\.yaml"):
        parse_training_config(text, method="lora")


@pytest.mark.parametrize("split", [0, -0.1, 1.5, "all"])
def test_a_split_is_a_share_of_the_rows(split: Any) -> None:
    said = refusal(DatasetConfig={"train_test_split": split})
    assert "it must be a number more than 0 and at most 1" in said


def test_the_check_needs_no_torch() -> None:
    program = (
        "import sys; from tasks.contract.training_config import parse_training_config as parse;"
        "parse(None, method='qlora'); sys.exit(bool({'torch', 'transformers'} & {*sys.modules}))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("section", "library"),
    [("TrainingArguments", SFTConfig), ("LoraConfig", peft.LoraConfig)],
)
def test_every_argument_of_the_library_is_decided_on(section: str, library: type) -> None:
    rules = _accepted()[section]
    decided = {name for group in rules.values() for name in group}
    names = {field.name for field in dataclasses.fields(library) if field.init}
    assert names - decided == set()
    assert set(rules["accepted"]) - names == set()


@pytest.mark.parametrize("name", sorted(_accepted()["TrainingArguments"]["accepted"]))
def test_an_accepted_argument_has_a_type_that_trl_takes(name: str) -> None:
    rule = _accepted()["TrainingArguments"]["accepted"][name]
    ours = (
        {"str"} if isinstance(rule, list) else {(rule if isinstance(rule, str) else rule["type"])}
    )
    assert ours <= simple_types(typing.get_type_hints(SFTConfig)[name])


def simple_types(hint: Any) -> set[str]:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return {name for part in typing.get_args(hint) for name in simple_types(part)}
    plain = typing.get_origin(hint) or hint
    return {SIMPLE_TYPES[plain]} if plain in SIMPLE_TYPES else set()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lr_scheduler_type", {word.value for word in SchedulerType}),
        ("optim", {word.value for word in OptimizerNames}),
        ("save_strategy", {word.value for word in SaveStrategy}),
    ],
)
def test_accepted_words_are_words_that_trl_knows(name: str, words: set[str]) -> None:
    assert set(_accepted()["TrainingArguments"]["accepted"][name]) <= words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "training_config:\n  LoraConfig:\n    r: 8\n    lora_alpha: 16\n    r: 9\n",
            "found line 5: r is given twice, first in line 3; correct the text of the ConfigMap",
        ),
        ("training_config: {}\n---\ntraining_config: {}\n", "there are several documents"),
        ("training_config: [", "found line 1: "),
    ],
)
def test_a_text_that_can_be_read_in_two_ways_or_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidTuningConfig) as raised:
        parse_training_config(text, method="lora")
    assert words in str(raised.value)


def test_a_key_beside_a_merged_one_takes_its_place() -> None:
    text = "base: &b {r: 4, lora_alpha: 16}\ntraining_config:\n  LoraConfig: {<<: *b, r: 9}\n"
    config = parse_training_config(text, method="lora")
    assert (config.lora["r"], config.lora["lora_alpha"]) == (9, 16)


@pytest.mark.parametrize(
    ("dtype", "method", "shape"),
    [("float32", "lora", (4, 32)), ("bfloat16", "lora", (2, 16)), ("float32", "qlora", (4, 4))],
)
def test_numbers_take_the_bytes_of_their_type(
    dtype: str, method: str, shape: tuple[int, int]
) -> None:
    text = f"training_config: {{ModelConfig: {{torch_dtype: {dtype}}}}}"
    found = parse_training_config(text, method=method).tuning_shape()
    assert (found.compute_bytes, found.weight_bits) == shape


BEST = {"load_best_model_at_end": True}


@pytest.mark.parametrize(
    ("together", "words"),
    [
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "must hold min_lr or min_lr_rate"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "must hold num_decay_steps"),
        (
            {
                "lr_scheduler_type": "cosine_with_min_lr",
                "lr_scheduler_kwargs": {"min_lr": 0.1, "min_lr_rate": 0.1},
            },
            "keep one",
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "steps"},
            "set both alike",
        ),
        (
            {
                "load_best_model_at_end": True,
                "eval_strategy": "steps",
                "save_strategy": "steps",
                "eval_steps": 2,
                "save_steps": 3,
            },
            "a multiple of eval_steps (2)",
        ),
        (BEST | {"eval_strategy": "steps", "save_strategy": "steps"}, "save_steps and eval_steps"),
        (BEST, "load_best_model_at_end needs evaluations"),
        ({"save_strategy": "best"}, "save_strategy best needs evaluations"),
        ({"max_steps": 0}, "leave it out, or name the steps"),
    ],
)
def test_what_cannot_go_together_is_told_with_the_remedy(
    together: dict[str, Any], words: str
) -> None:
    assert words in refusal(TrainingArguments=together)


@pytest.mark.parametrize(
    "together",
    [
        {"eval_strategy": "epoch", "save_strategy": "epoch"},
        {"eval_strategy": "epoch", "save_strategy": "best"},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 4},
    ],
)
def test_the_best_model_is_looked_for_in_one_rhythm(together: dict[str, Any]) -> None:
    assert parse(TrainingArguments=BEST | together).training["load_best_model_at_end"] is True


def test_evaluations_need_rows_that_are_held_out() -> None:
    said = refusal(
        TrainingArguments={"eval_strategy": "epoch"}, DatasetConfig={"train_test_split": 1}
    )
    assert "holds no rows out" in said


def test_a_schedule_with_all_it_needs_is_taken() -> None:
    schedule = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}}
    assert parse(TrainingArguments=schedule).training["lr_scheduler_kwargs"] == {"min_lr": 1e-6}


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("micro_batch_size", "TrainingArguments.per_device_train_batch_size"),
        ("lora_r", "LoraConfig.r"),
        ("sequence_len", "TrainingArguments.max_length"),
        ("base_model", "the Workspace's tuning.preset.name"),
    ],
)
def test_words_of_other_trainers_are_answered_with_ours(word: str, ours: str) -> None:
    assert f"(here it is {ours})" in refusal(TrainingArguments={word: 1})
    assert f"(here it is {ours})" in refusal(**dict[str, Any]({word: 1}))


def test_a_word_that_is_nearly_right_is_told() -> None:
    said = refusal(LoraConfig={"init_lora_weights": "gausian"})
    assert "did you mean gaussian?" in said


def test_every_word_of_others_that_is_called_otherwise_here_is_accepted_here() -> None:
    for word, ours in _peers().items():
        section, _, name = ours.split()[0].rstrip(":,").partition(".")
        if section in _accepted():
            assert name in _accepted()[section]["accepted"], word


@pytest.mark.parametrize("text", [None, "training_config: {TrainingArguments: {}}"])
def test_what_recomputes_its_activations_says_so_and_nothing_else_changes(text: str | None) -> None:
    config = parse_training_config(text, method="lora")
    recomputing = config.recomputing()
    assert recomputing.tuning_shape().gradient_checkpointing
    assert config.recomputing().recomputing() == recomputing
    kept = {k: v for k, v in recomputing.training.items() if k != "gradient_checkpointing"}
    assert kept == {k: v for k, v in config.training.items() if k != "gradient_checkpointing"}
