"""`kaitoflow plan` and `kaitoflow run`: from a file to a plan, and to a run that is watched."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from flows.places.base import Objects
from flows.places.place import Place, open_objects
from flows.view import print_plan
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.workspace import Manifests, parse_manifests
from tasks.plan.data import with_absolute_files

_REFUSED = 3


def plan_file(file: Path, *, push: bool, port: int | None, output: str, place: Place) -> int:
    """Print the plan of a file's Workspace; 0 when it may run, 3 when it is refused."""
    with open_objects(place) as objects:
        plan = objects.plan(load_manifests(file, objects), push=push, port=port)
    if output in ("table", "wide"):
        print_plan(plan)
    else:
        shown = plan.model_dump(mode="json", by_alias=True) | {"accepted": not plan.refused}
        sys.stdout.write(
            json.dumps(shown, indent=2) + "\n"
            if output == "json"
            else yaml.safe_dump(shown, sort_keys=False)
        )
    return _REFUSED if plan.refused else 0


def run_file(file: Path, *, push: bool, port: int | None, place: Place) -> int:
    """Run a file's Workspace to the end, showing its progress; the exit code."""
    with open_objects(place) as objects:
        return objects.run(load_manifests(file, objects), push=push, port=port)


def load_manifests(file: Path, objects: Objects) -> Manifests:
    """The objects of a file, in the namespace where they belong, `file:` URLs from its folder.

    Raises: InvalidWorkspace: no such file, not readable, or not a Workspace.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidWorkspace(
            f"{file} was asked for",
            f"it cannot be read ({error})",
            "give a YAML file with a Workspace",
        ) from None
    manifests = parse_manifests(text, source=str(file))
    workspace = with_absolute_files(manifests.workspace, file.resolve().parent)
    changes: dict[str, Any] = {}
    if "namespace" not in workspace.metadata.model_fields_set:
        changes["namespace"] = objects.namespace
    metadata = workspace.metadata.model_copy(update=changes)
    workspace = workspace.model_copy(update={"metadata": metadata})
    return manifests.model_copy(update={"workspace": workspace})
