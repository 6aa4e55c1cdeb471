"""What a person reads of the catalogue's models."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.commands.models import models_page, show_models
from tasks.contract.errors import UnknownPreset
from tasks.presets import catalogue

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HYBRID, DENSE = "qwen3.5-4b", "granite-4.1-8b"
ITS_OWN_CODE = "kimi-k2.7-code"


def shown(capsys: pytest.CaptureFixture[str], *names: str, output: str = "table") -> str:
    assert show_models(names, cloud="azure", output=output) == 0
    return capsys.readouterr().out


def told(capsys: pytest.CaptureFixture[str], name: str) -> Any:
    return json.loads(shown(capsys, name, output="json"))["models"][0]


def test_each_use_names_a_machine_of_that_cloud_or_why_there_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = told(capsys, HYBRID)
    assert model["tunes"]["qlora"] == {"cheapest": "Standard_NC4as_T4_v3"}
    assert model["serves"] == {"cheapest": "Standard_NC4as_T4_v3"}
    for use in (
        told(capsys, ITS_OWN_CODE)["serves"],
        *told(capsys, ITS_OWN_CODE)["tunes"].values(),
    ):
        assert set(use) == {"whyNot"}
        assert use["whyNot"]
    assert set(told(capsys, DENSE)["serves"]) == {"cheapest"}


def test_a_table_says_why_below_it_and_a_wide_one_beside_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    heads, can, cannot, why = shown(capsys, HYBRID, ITS_OWN_CODE).splitlines()
    assert heads.split()[0] == "NAME"
    assert can.split() == [
        *(HYBRID, "8.7", "GiB", "256k", "apache-2.0"),
        *["Standard_NC4as_T4_v3"] * 3,
    ]
    assert cannot.split()[-6:] == ["no", "(1)"] * 3
    assert why == f"(1) {told(capsys, ITS_OWN_CODE)['serves']['whyNot']}"
    wide = shown(capsys, ITS_OWN_CODE, output="wide").splitlines()[1]
    assert told(capsys, ITS_OWN_CODE)["serves"]["whyNot"] in wide
    assert told(capsys, HYBRID)["revision"][:12] in shown(capsys, HYBRID, output="wide")


def test_the_page_of_models_says_what_the_catalogue_says() -> None:
    page = models_page()
    assert PAGE.read_text() == page, "write it anew: see models_page"
    for name, preset in catalogue().items():
        [line] = [each for each in page.splitlines() if each.startswith(f"| `{name}` ")]
        why = preset.why_not_served("vllm")
        assert ("no (" in line) is any(
            (
                why,
                *(preset.why_not_tuned(method) for method in ("qlora", "lora")),
                preset.why_not_served("transformers"),
                preset.why_no_adapters("vllm"),
            )
        )
        assert not why or why in page


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UnknownPreset, match="did you mean"):
        show_models(["phi-5"], cloud=None, output="table")
