"""`kaitoflow diff`: two adapters of a Workspace as columns, as JSON, and wrong names in words."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.commands.adapters import print_diff
from flows.places.base import WrongUsage
from flows.places.place import Place
from tasks.contract.adapter_history import AdapterHistory, AdapterRecord, Making
from tasks.contract.artifacts import PublishedImage
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Manifests
from tasks.platform.current import local_platform
from tasks.settings import settings
from tests.builders import tuning_workspace


def adapter(number: int, rank: str) -> AdapterRecord:
    image = PublishedImage(reference=f"r.example.com/a:1-g{number}", digest=f"sha256:{number}")
    making = Making(rows=320, settings={"LoraConfig.r": rank, "LoraConfig.lora_alpha": "16"})
    return AdapterRecord(number=number, image=image, making=making, data="d")


@pytest.fixture(autouse=True)
def tuned_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Workspace whose second adapter serves, at a person's word."""
    monkeypatch.setenv("KAITOFLOW_HOME", str(tmp_path))
    caches = (settings, local_platform)
    for cache in caches:
        cache.cache_clear()
    store = local_platform().store
    adapters = AdapterHistory(records=[adapter(1, "8"), adapter(2, "16")])
    adapters.promote(1, by="run", why="tuned")
    adapters.promote(2, by="ann", why="reads better")
    workspace = store.apply(Manifests(workspace=tuning_workspace()))
    store.write_status(workspace, WorkspaceStatus(adapters=adapters))
    yield
    for cache in caches:
        cache.cache_clear()


def printed(capsys: pytest.CaptureFixture[str], *named: str, output: str = "table") -> str:
    assert print_diff("tuned", named, namespace=None, output=output, place=Place()) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("named", [(), ("1",), ("tuned@1", "2")])
def test_what_differs_stands_side_by_side(
    capsys: pytest.CaptureFixture[str], named: tuple[str, ...]
) -> None:
    lines = [line.split() for line in printed(capsys, *named).splitlines()]
    assert lines[0] == ["tuned@1", "tuned@2"]
    assert ["LoraConfig.r", "8", "16"] in lines
    assert "settings: 1 are the same, 1 differ".split() in lines
    assert "tuned@2 (ann): reads better".split() in lines
    assert not [line for line in lines if line[0] == "LoraConfig.lora_alpha"]


def test_wide_shows_what_is_the_same_too(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in printed(capsys, output="wide").splitlines()]
    assert ["LoraConfig.lora_alpha", "16", "16"] in lines


def test_json_has_both_adapters_whole_and_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(printed(capsys, output="json"))
    assert (told["before"]["number"], told["after"]["number"]) == (1, 2)
    assert told["after"]["making"]["rows"] == 320
    assert told["settings"] == [{"name": "LoraConfig.r", "before": "8", "after": "16"}]
    assert told["data"] == ["the same bytes"]


@pytest.mark.parametrize("word", ["first", "other@1", "-1", "1.5"])
def test_what_is_no_number_of_an_adapter_is_told_with_one_that_is(word: str) -> None:
    with pytest.raises(WrongUsage, match="name it as 3 or tuned@3"):
        print_diff("tuned", [word], namespace=None, output="table", place=Place())
