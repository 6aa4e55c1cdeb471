"""What is edited while a run waits for its node is heeded by the run, and told as heeded."""

import pytest

from tasks.contract.workspace import Workspace
from tasks.nodes.task import as_edited
from tasks.platform.current import current_platform
from tests.nodes.test_provision_step import workspace

__all__ = ["workspace"]


def annotated(workspace: Workspace, **annotations: str) -> Workspace:
    metadata = workspace.metadata.model_copy(update={"annotations": annotations})
    return workspace.model_copy(update={"metadata": metadata})


def is_by_now(monkeypatch: pytest.MonkeyPatch, edited: Workspace) -> None:
    async def as_it_is(_workspace: Workspace) -> Workspace:
        return edited

    monkeypatch.setattr(current_platform(), "as_it_is", as_it_is)


async def test_an_edited_annotation_is_heeded_and_told(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = annotated(workspace, **{"kaitoflow.io/tolerations": "team=ml"})
    is_by_now(monkeypatch, edited)
    assert await as_edited(workspace) == edited
    status = await current_platform().read_status(workspace)
    assert status.acted_on == ["kaitoflow.io/tolerations=team=ml"]


async def test_whether_it_is_served_is_left_to_the_next_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_by_now(monkeypatch, annotated(workspace, **{"kaito.sh/serve": "false"}))
    assert await as_edited(workspace) == workspace
    assert (await current_platform().read_status(workspace)).acted_on is None
