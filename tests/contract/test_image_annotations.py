"""By its image's annotations a plan knows an adapter before anything is pulled."""

from tasks.contract.image_annotations import (
    BASE_NAME,
    LORA_SHAPE,
    REVISION,
    adapter_of,
    told_shape,
)

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


def test_what_is_told_of_an_adapter_is_read_as_its_configuration() -> None:
    told = {LORA_SHAPE: told_shape(CONFIG), BASE_NAME: "team/base", REVISION: "abc"}
    found = adapter_of(told)
    assert found
    assert found.items() >= CONFIG.items()
    assert (found["base_model_name_or_path"], found["revision"]) == ("team/base", "abc")


def test_of_an_image_that_tells_nothing_readable_nothing_is_known() -> None:
    assert [adapter_of({LORA_SHAPE: text}) for text in ("", "{", "[8]")] == [None] * 3
    assert adapter_of({}) is None
