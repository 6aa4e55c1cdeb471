"""Whether the very same was tuned before, and need not be tuned again. Pure."""

from tasks.config_map import config_map_text
from tasks.contract.artifacts import Tuned
from tasks.contract.errors import Refused
from tasks.contract.training_digest import training_digest
from tasks.contract.workspace import Workspace
from tasks.plan.findings import Findings
from tasks.plan.model import preset_or_none
from tasks.platform.base import World


def training(workspace: Workspace, world: World) -> str:
    """The digest of all that the training depends on; empty where nothing can be tuned.

    What was tuned before the catalogue named commits says `main`, and is the very same.
    """
    preset = preset_or_none(workspace)
    if not workspace.tuning or preset is None:
        return ""
    name = workspace.tuning.config
    try:
        text = config_map_text(world.config_maps.get(name), name) if name else None
    except Refused:
        return ""
    now, formerly = (
        training_digest(workspace, base_model=f"{preset.model}@{revision}", config_text=text)
        for revision in (preset.revision, "main")
    )
    is_former = world.tuned and world.tuned.training == formerly
    return formerly if is_former and _names_no_revision(workspace) else now


def _names_no_revision(workspace: Workspace) -> bool:
    return workspace.preset is not None and "@" not in workspace.preset.name


def tuned_from_the_same(workspace: Workspace, world: World) -> Tuned | None:
    """What was tuned from the very same, wherever its image is by now; None = nothing was.

    A generation is tuned once, also when its ConfigMap is edited later: a run that repairs its
    server trains nothing, nor where that is gone. A file is no generation yet.
    """
    wanted, last, meta = training(workspace, world), world.tuned, workspace.metadata
    if last and workspace.tuning and meta.uid and last.is_of(meta.generation):
        return last
    if not wanted:
        return None
    if last and last.training == wanted:
        return last
    return next((each for each in world.tuned_before if each.training == wanted), None)


def tuned_before(workspace: Workspace, world: World, findings: Findings) -> Tuned | None:
    """The same as long as it is still there; None = it has to be tuned.

    A registry that does not answer, or may not be asked from here, has not said that the image is
    gone.
    """
    return None if findings.has_tuned_image is False else tuned_from_the_same(workspace, world)
