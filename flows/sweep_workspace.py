"""A sweep: one training for each of several settings, on the same split, and the best one served.

Each is a generation of the Workspace, tuned by a run of its own and not served; so each adapter is
an image and has its line in the history, and the run with the best settings finds them tuned.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_table_artifact

from flows.promote_adapter import find_workspace
from flows.run_workspace import Port, run_workspace
from tasks.config_map import TRAINING_CONFIG_KEY, read_training_config_text
from tasks.contract.errors import (
    BudgetSpent,
    InvalidWorkspace,
    NothingLearned,
    TrainingDiverged,
)
from tasks.contract.status import WorkspaceStatus
from tasks.contract.sweep import Settings, Tried, best, with_settings
from tasks.contract.training_config import parse_training_config
from tasks.contract.workspace import SERVE_ANNOTATION, Manifests, Workspace
from tasks.platform.current import local_platform

# What a training ends with by its settings; whatever else fails would fail with the next, too.
_OF_THE_SETTINGS = (TrainingDiverged, NothingLearned, BudgetSpent)


@flow(name="sweep-workspace", flow_run_name="sweep {namespace}/{name}")
async def sweep_workspace(
    name: str,
    candidates: Sequence[Mapping[str, Any]],
    *,
    namespace: str = "default",
    push: bool = False,
    port: Port | None = None,
) -> Any:
    """Tune with each of the settings and run the Workspace with the best; what each came to.

    Args:
        name: of a Workspace that is kept on this machine, and is not served now.
        candidates: settings by section and name, as `LoraConfig.r`.
        namespace: where it is.
        push: send the image to its registry too, instead of only keeping it on this machine's disk.
        port: where the server listens.
    """
    asked = await find_workspace(namespace, name)
    text = await read_training_config_text(asked)
    _expect_sweepable(asked, text, candidates)
    tried = [await _try(asked, text, each, push=push) for each in candidates]
    kept = best(tried)
    if kept is None:
        raise InvalidWorkspace(
            f"the best of {len(tried)} trainings was to be kept",
            f"none has a loss on held-out answers ({tried[-1].why})",
            "give it ten rows or more, and hold some out (DatasetConfig.train_test_split)",
        )
    await acreate_table_artifact(_rows(tried, kept), key="sweep", description=f"Sweep of {asked}")
    chosen = _applied(asked, text, kept.settings)
    await run_workspace(chosen.redacted(), push=push, port=port)
    return tried


def _expect_sweepable(
    workspace: Workspace, text: str | None, candidates: Sequence[Settings]
) -> None:
    """Nothing, if each of the settings may be tuned with and nothing that serves is in the way.

    Raises: InvalidWorkspace, InvalidTuningConfig.
    """
    if not (workspace.tuning and workspace.tuning.output.image):
        raise InvalidWorkspace(
            f"a sweep of {workspace} was asked for",
            "it tunes no adapter that becomes an image",
            "give a Workspace with tuning.output.image",
        )
    if local_platform().is_serving(workspace):
        raise InvalidWorkspace(
            f"a sweep of {workspace} was asked for",
            "it is served, and each of the trainings would take its memory",
            f"stop it first (kaitoflow stop {workspace.metadata.name})",
        )
    method = workspace.tuning.method
    parse_training_config(text, method=method)
    for settings in candidates:
        parse_training_config(with_settings(text, settings), method=method)


async def _try(workspace: Workspace, text: str | None, settings: Settings, *, push: bool) -> Tried:
    unserved = workspace.metadata.annotations | {SERVE_ANNOTATION: "false"}
    metadata = workspace.metadata.model_copy(update={"annotations": unserved})
    candidate = _applied(workspace.model_copy(update={"metadata": metadata}), text, settings)
    try:
        status: WorkspaceStatus = await run_workspace(candidate.redacted(), push=push)
    except _OF_THE_SETTINGS as error:
        return Tried(settings=settings, why=f"{error.reason}: {error.found}")
    held_out = status.held_out
    if held_out is None:
        return Tried(settings=settings, why="no rows were held out")
    return Tried(settings=settings, loss_before=held_out.loss_before, loss=held_out.loss_after)


def _applied(workspace: Workspace, text: str | None, settings: Settings) -> Workspace:
    """The Workspace as a generation with these settings, which its ConfigMap has from now on."""
    assert workspace.tuning
    name = workspace.tuning.config or f"{workspace.metadata.name}-sweep"
    tuning = workspace.tuning.model_copy(update={"config": name})
    data = {TRAINING_CONFIG_KEY: with_settings(text, settings)}
    return local_platform().store.apply(
        Manifests(
            workspace=workspace.model_copy(update={"tuning": tuning}), config_maps={name: data}
        )
    )


def _rows(tried: Sequence[Tried], kept: Tried) -> list[dict[str, Any]]:
    return [
        {**each.settings, "before": each.loss_before, "after": each.loss}
        | {"": "kept" if each is kept else each.why}
        for each in tried
    ]
