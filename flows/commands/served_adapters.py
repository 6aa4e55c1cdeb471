"""`kaitoflow adapters`: which a Workspace's server has loaded, and others in their place."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from flows.commands.show import columns
from flows.places.base import Objects, WrongUsage, find_workspace
from flows.places.place import Place, open_objects
from tasks.contract.errors import AdapterNotFound
from tasks.contract.workspace import Adapter
from tasks.platform.store import StoredWorkspace

Action = Literal["list", "load", "unload", "blend", "merge"]
_WORDS: Mapping[Action, str] = {
    "list": "",
    "load": "ADAPTER IMAGE-OR-FOLDER",
    "unload": "ADAPTER",
    "blend": "ADAPTER PART=WEIGHT...",
    "merge": "FOLDER [ADAPTER]",
}


def adapters(
    name: str,
    action: Action,
    words: Sequence[str],
    *,
    in_place: bool,
    namespace: str | None,
    output: str,
    place: Place,
) -> int:
    """Do what is asked with the adapters of a Workspace's server, then print which there are.

    Raises: WrongUsage, ServerNotReady, AdapterMismatch, ...: as the server or a program says.
    """
    if in_place and action != "load":
        raise _wrong(name, action, "--in-place", "it is of load alone")
    with open_objects(place) as objects:
        stored = find_workspace(objects, name, namespace)
        if action == "merge":
            return _merge(objects, stored, words)
        if request := _request(name, action, words, in_place=in_place):
            objects.administer(stored, *request)
        state = objects.administer(stored, "/admin/adapters")
    sys.stdout.write(_shown(state, output))
    return 0


def _request(
    name: str, action: Action, words: Sequence[str], *, in_place: bool
) -> tuple[str, dict[str, Any]] | None:
    """The endpoint and the body that do it; None = there is nothing to do."""
    match action, *words:
        case ("list",):
            return None
        case ("load", adapter, source):
            body = {"lora_name": adapter, "lora_path": source, "load_inplace": in_place}
            return "/v1/load_lora_adapter", body
        case ("unload", adapter):
            return "/v1/unload_lora_adapter", {"lora_name": adapter}
        case ("blend", adapter, _, *_):
            weights = dict(_weight(name, part) for part in words[1:])
            return "/admin/blend", {"name": adapter, "weights": weights}
    raise _wrong(name, action, " ".join(words) or "nothing more", "that is not what it takes")


def _weight(name: str, part: str) -> tuple[str, float]:
    adapter, _, weight = part.rpartition("=")
    try:
        return adapter, float(weight)
    except ValueError:
        raise _wrong(name, "blend", part, "its weight is no number") from None


def _wrong(name: str, action: Action, given: str, found: str) -> WrongUsage:
    words = f"{action} {_WORDS[action]}".strip()
    return WrongUsage(
        f"kaitoflow adapters {name} {action} was given {given}",
        found,
        f"write kaitoflow adapters {name} {words}",
    )


def _merge(objects: Objects, stored: StoredWorkspace, words: Sequence[str]) -> int:
    meta = stored.workspace.metadata
    if not 1 <= len(words) <= 2:
        raise _wrong(meta.name, "merge", " ".join(words) or "nothing more", "it takes a folder")
    folder = Path(words[0]).absolute()
    if folder.exists():
        found = "there is something already in its place"
        raise _wrong(meta.name, "merge", words[0], found)
    adapter = _adapter(stored, words[1] if words[1:] else None)
    merged = objects.merge(stored, adapter, folder)
    megabytes = merged.bytes / 1e6
    sys.stdout.write(f"{merged.target_dir}: {megabytes:.0f} MB of weights that need no adapter\n")
    return 0


def _adapter(stored: StoredWorkspace, wanted: str | None) -> Adapter | None:
    """The adapter that is meant; None = the Workspace's own, which has no image.

    Args: wanted: a number as `kaitoflow history` has it, or a name of `inference.adapters`.
    Raises: AdapterNotFound.
    """
    workspace, status = stored.workspace, stored.status
    name = workspace.metadata.name
    if workspace.inference:
        known = {each.source.name or "": each for each in workspace.inference.adapters}
        chosen = known.get(wanted) if wanted else next(iter(known.values()), None)
        if chosen and (wanted or len(known) == 1):
            return chosen
        raise _no_adapter(stored, wanted, [*known])
    images = {str(each.number): each.image for each in status.adapters.records}
    image = images.get(wanted.removeprefix(f"{name}@")) if wanted else status.image
    if image is None and (wanted or not status.tuned):
        raise _no_adapter(stored, wanted, [f"{name}@{number}" for number in images])
    if image is None:
        return None
    secret = workspace.push_secret
    source = {
        "name": name,
        "image": f"{image.reference}@{image.digest}",
        "imagePullSecrets": [secret] if secret else [],
    }
    return Adapter.model_validate({"source": source})


def _no_adapter(
    stored: StoredWorkspace, wanted: str | None, known: Sequence[str]
) -> AdapterNotFound:
    return AdapterNotFound(
        f"{wanted or 'the adapter'} of {stored.workspace} was to be merged",
        f"there is {', '.join(known) or 'none'}",
        "name one of them" if known else "run it first, or name adapters in inference.adapters",
    )


def _shown(state: Mapping[str, Any], output: str) -> str:
    if output == "json":
        return json.dumps(state, indent=2) + "\n"
    if output == "yaml":
        return yaml.safe_dump(state, sort_keys=False)
    names: dict[str, list[str]] = {}
    for each in state["names"]:
        names.setdefault(each["version"], []).append(each["name"])
        if canary := each["canary"]:
            tried = f"{each['name']} ({canary['share']:.0%}, {canary['verdict']})"
            names.setdefault(canary["version"], []).append(tried)
    rows = [
        {
            "MODEL": each["version"],
            "ANSWERS TO": ", ".join(names.get(each["version"], [])),
            "BASE": each["parent"] or "",
            "IN MEMORY": "yes" if each["in_memory"] else "no",
            "DIGEST": each["digest"][:12],
        }
        for each in state["versions"]
    ]
    return columns(rows)
