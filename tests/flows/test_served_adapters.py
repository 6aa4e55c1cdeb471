"""`kaitoflow adapters`: of a server that runs, with the key that it was started with."""

import json
from pathlib import Path

import httpx2
import pytest

from tests.flows.conftest import FinishedRun, Installation

pytestmark = pytest.mark.timeout(600)

BASE = "smollm2-135m-instruct"


def table(installation: Installation, *words: str) -> dict[str, list[str]]:
    """The rows that a command prints, by their first word."""
    ended = installation.kaitoflow("adapters", "quickstart", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return {line.split()[0]: line.split()[1:] for line in ended.stdout.splitlines()[1:]}


def answer(finished: FinishedRun, model: str) -> str:
    url = finished.object["status"]["endpoint"]["url"]
    body = {"model": model, "prompt": "What does len do?", "max_tokens": 8, "temperature": 0}
    told = httpx2.post(f"{url}/v1/completions", json=body, timeout=120, trust_env=False)
    assert told.status_code == 200, told.text
    return str(told.json()["choices"][0]["text"])


def test_adapters_are_loaded_blended_and_unloaded_while_the_model_answers(
    finished: FinishedRun,
) -> None:
    installation, image = finished.installation, finished.object["status"]["image"]
    assert set(table(installation)) == {BASE, "quickstart"}
    pinned = f"{image['reference']}@{image['digest']}"
    loaded = table(installation, "load", "twin", pinned)
    assert loaded["twin"] == ["twin", BASE, "yes", loaded["quickstart"][-1]]
    halves = table(installation, "blend", "halves", "quickstart=0.5", "twin=0.5")
    assert set(halves) == {BASE, "quickstart", "twin", "halves"}
    assert answer(finished, "halves") == answer(finished, "twin") == answer(finished, "quickstart")
    table(installation, "unload", "halves")
    assert set(table(installation, "unload", "twin")) == {BASE, "quickstart"}


def test_a_merged_model_is_a_folder_of_its_own(finished: FinishedRun, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    merge = ("adapters", "quickstart", "merge", str(folder))
    ended = finished.installation.kaitoflow(*merge)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith(f"{folder}: ")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    again = finished.installation.kaitoflow(*merge)
    assert again.returncode == 2
    assert "there is something already" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("load", "twin"), "load ADAPTER IMAGE-OR-FOLDER"),
        (("unload",), "unload ADAPTER"),
        (("blend", "both", "quickstart=much"), "its weight is no number"),
        (("blend", "both"), "blend ADAPTER PART=WEIGHT..."),
        (("list", "all"), "write kaitoflow adapters quickstart list"),
        (("merge",), "merge FOLDER [ADAPTER]"),
        (("unload", "twin", "--in-place"), "it is of load alone"),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(
    finished: FinishedRun, words: tuple[str, ...], said: str
) -> None:
    ended = finished.installation.kaitoflow("adapters", "quickstart", *words)
    assert ended.returncode == 2
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("unload", "nobody"), "this server has: quickstart"),
        (("merge", "somewhere", "quickstart@9"), "there is quickstart@1"),
    ],
)
def test_an_adapter_that_is_not_there_is_told_beside_those_that_are(
    finished: FinishedRun, words: tuple[str, ...], said: str
) -> None:
    ended = finished.installation.kaitoflow("adapters", "quickstart", *words)
    assert ended.returncode in (1, 3)
    assert said in ended.stderr
