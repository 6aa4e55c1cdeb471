"""An adapter is gone on from as it is; whatever would make another of it is refused by name."""

from typing import Any

import pytest

from tasks.contract.continuing import Start, continued, parse_start
from tasks.contract.errors import (
    AdapterMismatch,
    ImageReferenceInvalid,
    InvalidTuningConfig,
    InvalidWorkspace,
    KaitoflowError,
)
from tasks.contract.image_annotations import BASE_NAME, LORA_SHAPE, adapter_of, told_shape
from tasks.contract.training_config import TrainingConfig, parse_training_config

# What PEFT writes, shortened.
ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "owner/base",
    "revision": None,
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "target_modules": ["v_proj", "q_proj"],
    "exclude_modules": None,
    "bias": "none",
    "use_dora": False,
    "rank_pattern": {},
    "init_lora_weights": True,
    "inference_mode": True,
}


def config(lora: str = "") -> TrainingConfig:
    return parse_training_config(f"training_config: {{LoraConfig: {{{lora}}}}}", method="lora")


def gone_on(lora: str = "", *, over: str = "main", **changes: Any) -> TrainingConfig:
    """The settings, over a revision of the base model."""
    return continued(
        config(lora), ADAPTER | changes, name="r.io/a:1", model="owner/base", revision=over
    )


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (None, None),
        ("serving", Start()),
        ("r.io/team/a:1", Start(image="r.io/team/a:1")),
        ("./out/adapter", Start(folder="./out/adapter")),
        ("/out/adapter", Start(folder="/out/adapter")),
    ],
)
def test_an_image_a_folder_or_what_serves_is_named(text: str | None, start: Start | None) -> None:
    assert parse_start(text) == start


@pytest.mark.parametrize(
    ("text", "error"), [("severing", InvalidWorkspace), ("r.io/A", ImageReferenceInvalid)]
)
def test_another_word_is_refused(text: str, error: type[KaitoflowError]) -> None:
    with pytest.raises(error):
        parse_start(text)


def test_what_the_user_leaves_out_is_taken_from_the_adapter() -> None:
    lora = gone_on().lora
    assert (lora["r"], lora["lora_alpha"]) == (16, 32)
    assert lora["target_modules"] == ["v_proj", "q_proj"]
    assert "bias" not in lora
    # How often a weight is left out is of a training, not of an adapter.
    assert lora["lora_dropout"] == 0.0


@pytest.mark.parametrize(
    "lora", ["r: 16", "target_modules: [q_proj, v_proj]", "bias: none", "lora_dropout: 0.2"]
)
def test_what_the_user_says_may_be_what_the_adapter_says(lora: str) -> None:
    assert gone_on(lora).lora_rank == 16


@pytest.mark.parametrize(
    ("lora", "found"),
    [
        ("r: 8", "the adapter's is 16"),
        ("lora_alpha: 16", "the adapter's is 32"),
        ("target_modules: [q_proj]", r"the adapter's is \['v_proj', 'q_proj'\]"),
        ("use_dora: true", "the adapter's is False"),
        ("init_lora_weights: gaussian", "this one has begun"),
    ],
)
def test_what_would_make_another_adapter_is_refused_with_what_to_remove(
    lora: str, found: str
) -> None:
    with pytest.raises(InvalidTuningConfig, match=f"{found}.*emove"):
        gone_on(lora)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"base_model_name_or_path": "owner/other"}, "made for owner/other, and the base model"),
        ({"peft_type": "IA3"}, "of type IA3"),
        ({"init_lora_weights": "pissa"}, "a base that pissa has changed"),
        ({"target_parameters": ["experts"]}, "it has target_parameters"),
    ],
)
def test_an_adapter_of_another_base_or_kind_is_refused(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(AdapterMismatch, match=found):
        gone_on(**changes)


def test_revisions_are_compared_where_both_are_known() -> None:
    for revision in (None, "main", "aaa"):
        assert gone_on(over="aaa", revision=revision).lora_rank == 16
    with pytest.raises(AdapterMismatch, match="at revision bbb, and the base model here is"):
        gone_on(over="aaa", revision="bbb")


def test_an_image_tells_as_much_as_the_adapter_s_own_file() -> None:
    annotations = {LORA_SHAPE: told_shape(ADAPTER), BASE_NAME: "owner/base"}
    told = adapter_of(annotations)
    assert told
    of_image = continued(config(), told, name="a", model="owner/base", revision="main")
    assert of_image.lora == gone_on().lora


def test_an_image_of_others_tells_nothing_of_rank_and_layers() -> None:
    assert adapter_of({}) is None
    assert adapter_of({LORA_SHAPE: "none"}) is None
    assert adapter_of({LORA_SHAPE: "[]"}) is None
