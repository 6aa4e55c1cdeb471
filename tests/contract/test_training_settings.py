"""Settings of two trainings are told apart by their names."""

import hashlib

import pytest
import yaml

from tasks.contract.training_config import parse_training_config
from tasks.contract.training_settings import training_settings


def settings(**sections: object) -> dict[str, str]:
    text = yaml.safe_dump({"training_config": sections}) if sections else None
    return training_settings(parse_training_config(text, method="qlora"))


def test_each_section_s_settings_are_told_in_the_user_s_words_with_its_defaults() -> None:
    told = settings(
        ModelConfig={"chat_template": "{{ messages }}"},
        LoraConfig={"r": 16},
        TrainingArguments={"num_train_epochs": 3},
        DatasetConfig={"messages_column": "talk"},
    )
    expected = {
        "ModelConfig.chat_template": "{{ messages }}",
        "QuantizationConfig.load_in_4bit": "true",
        "LoraConfig.r": "16",
        "TrainingArguments.num_train_epochs": "3.0",
        "DatasetConfig.messages_column": "talk",
    }
    assert expected.items() <= told.items()


def test_what_has_no_value_is_not_told() -> None:
    assert "ModelConfig.chat_template" not in settings()


@pytest.mark.parametrize("length", [80, 81])
def test_a_long_text_is_told_by_its_digest(length: int) -> None:
    text = "x" * length
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    told = settings(ModelConfig={"chat_template": text})["ModelConfig.chat_template"]
    assert told == (text if length == 80 else f"81 characters, sha256 {digest}")
