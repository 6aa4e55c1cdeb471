"""The adapter that a tuning goes on from, as far as it can be looked at beforehand. Pure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.adapter_start import asked_start, folder_on_a_cluster
from tasks.contract.artifacts import Check
from tasks.contract.continuing import CONTINUE_ANNOTATION, Start, continued
from tasks.contract.errors import (
    AdapterMismatch,
    AddressForbidden,
    InvalidWorkspace,
    KaitoflowError,
    RegistryDenied,
)
from tasks.contract.image_annotations import adapter_of
from tasks.contract.workspace import Workspace
from tasks.plan.check import not_seen, not_told
from tasks.plan.findings import Findings
from tasks.plan.model import config_or_none, preset_or_none
from tasks.platform.base import World

_NAME = "start"


def start(workspace: Workspace, world: World, findings: Findings) -> Check | str:
    """What the tuning goes on from, and that it fits, as far as that is known.

    Raises: InvalidWorkspace, ImageReferenceInvalid, AdapterMismatch, InvalidTuningConfig.
    """
    asked = asked_start(workspace)
    assert asked
    if asked.folder:
        if world.is_cluster:
            raise folder_on_a_cluster(asked)
        return _fitting(workspace, world, _read_folder(asked), name=asked.folder)
    name = asked.image
    if not name:
        if world.tuned is None:
            return "nothing serves yet: it begins anew"
        if world.tuned.image is None:
            raise InvalidWorkspace(
                f"annotation {CONTINUE_ANNOTATION} asks for the adapter that serves",
                "it is in a volume, and no image",
                "set tuning.output.image, or name an image",
            )
        name = world.tuned.image.reference
    found = findings.start
    if isinstance(found, AddressForbidden | RegistryDenied):
        # Pods reach registries inside, and have the logins of the dataset as well.
        return not_seen(
            _NAME,
            found,
            before=name,
            how="could not be read",
            fix="see that a Secret of the Workspace may pull it: its pod does before it trains",
        )
    if isinstance(found, KaitoflowError):
        return not_told(_NAME, found, before=name)
    adapter = adapter_of(found or {})
    if adapter is None:
        return f"{name}, whose rank and layers are checked before it is trained on"
    return _fitting(workspace, world, adapter, name=name)


def _fitting(workspace: Workspace, world: World, adapter: Mapping[str, Any], *, name: str) -> str:
    preset, config = preset_or_none(workspace), config_or_none(workspace, world)
    if preset is None or config is None:
        return name  # told by the lines on the base model and the parameters
    settings = continued(config, adapter, name=name, model=preset.model, revision=preset.revision)
    return f"{name}, rank {settings.lora_rank}, over {preset.model}"


def _read_folder(asked: Start) -> Mapping[str, Any]:
    file = Path(asked.folder) / "adapter_config.json"
    try:
        adapter: Mapping[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterMismatch(
            f"the training is to go on from {asked.folder}",
            f"there is no readable adapter_config.json ({error})",
            "name a folder that PEFT wrote",
        ) from error
    return adapter
