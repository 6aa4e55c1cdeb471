"""The plan advises on settings that are far from what suits the model, and is silent else."""

from tasks.contract.artifacts import Check
from tasks.contract.training_config import parse_training_config
from tasks.plan.advice import advice
from tasks.plan.size import Run
from tasks.presets import find_preset
from tests.builders import tuning_workspace


def advised(training: str = "", *, tokens: int | None = None) -> Check | None:
    text = f"training_config: {{TrainingArguments: {{{training}}}}}"
    return advice(
        Run(
            workspace=tuning_workspace(),
            preset=find_preset("smollm2-135m-instruct"),
            config=parse_training_config(text, method="qlora"),
            tokens=tokens,
        )
    )


def test_nothing_is_advised_of_the_defaults() -> None:
    assert advised(tokens=20_775) is None


def test_a_rate_of_full_tuning_and_a_dataset_that_no_rank_8_holds_are_one_line() -> None:
    told = advised("learning_rate: 2.0e-5", tokens=4_000_000)
    assert told
    assert (told.name, told.result) == ("advice", "warn")
    assert told.detail == (
        "learning rate 2e-05 is low for LoRA, which learns best at ten times full tuning's; "
        "rank 8 holds about 2.44M of 4M answer tokens at most, by its files' sizes (counted "
        "before training)"
    )
    assert told.fix == (
        "set TrainingArguments.learning_rate 0.0005 and LoraConfig.r 16, "
        "or keep what you know is right"
    )
