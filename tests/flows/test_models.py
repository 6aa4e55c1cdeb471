"""What a person reads of the catalogue's models."""

import json
from typing import Any

import pytest

from flows.commands.models import show_models
from tasks.contract.errors import UnknownPreset

HYBRID, DENSE = "qwen3.5-4b", "granite-4.1-8b"


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
    assert "linear attention" in model["serves"]["whyNot"]
    assert set(told(capsys, DENSE)["serves"]) == {"cheapest"}


def test_a_table_says_no_and_a_wide_one_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    heads, line = shown(capsys, HYBRID).splitlines()
    assert heads.split()[0] == "NAME"
    assert line.split() == [
        *(HYBRID, "8.7", "GiB", "256k", "apache-2.0"),
        *("Standard_NC4as_T4_v3", "Standard_NC4as_T4_v3", "no"),
    ]
    wide = shown(capsys, HYBRID, output="wide").splitlines()[1]
    assert "linear attention" in wide
    assert told(capsys, HYBRID)["revision"][:12] in wide


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UnknownPreset, match="did you mean"):
        show_models(["phi-5"], cloud=None, output="table")
