"""The ConfigMap of a tuning is read, or refused by what it lacks."""

from typing import Any

import pytest

from tasks.config_map import config_map_text, read_training_config_text
from tasks.contract.errors import ConfigMapNotFound
from tasks.contract.workspace import Workspace, parse_workspace
from tests.builders import tuning_manifest


def test_the_text_is_that_of_kaito_s_key() -> None:
    assert config_map_text({"other": "x", "training_config.yaml": "a: 1"}, "settings") == "a: 1"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (None, r"'settings'; there is none of that name; put it into the Workspace's file"),
        ({"b": "", "a": ""}, r"'settings'; it has the keys \['a', 'b'\]; give it the key training"),
    ],
)
def test_a_config_map_without_it_is_refused_with_what_to_do(data: Any, found: str) -> None:
    with pytest.raises(ConfigMapNotFound, match=found):
        config_map_text(data, "settings")


async def test_a_workspace_that_names_none_has_none_to_read() -> None:
    workspace = parse_workspace(tuning_manifest(), source="w.yaml")
    assert await read_training_config_text(workspace) is None


class Kept:
    """A platform that has one ConfigMap."""

    async def read_config_map(self, workspace: Workspace, name: str) -> dict[str, str] | None:
        return {"training_config.yaml": f"{workspace}: 1"} if name == "settings" else None


async def test_the_platform_is_asked_for_the_one_that_the_workspace_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.config_map.current_platform", Kept)
    named = parse_workspace(tuning_manifest(config="settings"), source="w.yaml")
    other = parse_workspace(tuning_manifest(config="other"), source="w.yaml")
    assert await read_training_config_text(named) == "default/tuned: 1"
    with pytest.raises(ConfigMapNotFound, match="'other'; there is none of that name"):
        await read_training_config_text(other)
