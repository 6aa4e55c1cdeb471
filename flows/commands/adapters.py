"""`kaitoflow retune`, `promote`, `rollback`, `history` and `diff`: which adapters a model has."""

import getpass
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.commands.run import load_manifests
from flows.commands.show import columns
from flows.places.base import WrongUsage, find_workspace
from flows.places.place import Place, open_objects
from tasks.contract.adapter_diff import AdapterDiff, Row, choose, diff
from tasks.contract.adapter_history import AdapterRecord
from tasks.contract.redaction import one_line


def retune(what: str, *, push: bool, namespace: str | None, place: Place) -> int:
    """Tune an adapter from data that has changed; print what became of it."""
    with open_objects(place) as objects:
        if Path(what).is_file():
            meta = load_manifests(Path(what), objects).workspace.metadata
            what, namespace = meta.name, meta.namespace
        stored = find_workspace(objects, what, namespace)
        told = objects.retune(stored.workspace, push=push)
    sys.stdout.write(f"{one_line(told)}\n")
    return 0


def promote(
    name: str,
    *,
    number: int | None,
    refuse: bool,
    note: str,
    namespace: str | None,
    place: Place,
) -> int:
    """Have one of a Workspace's adapters serve, or one that waits for a word kept out."""
    with open_objects(place) as objects:
        stored = find_workspace(objects, name, namespace)
        by = getpass.getuser()
        objects.promote(stored.workspace, number, refuse=refuse, by=by, note=note)
        stored = find_workspace(objects, name, namespace)
    return _tell_serving(name, stored.status.adapters.serving)


def rollback(name: str, *, note: str, namespace: str | None, place: Place) -> int:
    """Have the adapter serve that did before."""
    with open_objects(place) as objects:
        stored = find_workspace(objects, name, namespace)
        former = stored.status.adapters.before(str(stored.workspace))
        note = note or "rolled back"
        objects.promote(stored.workspace, former.number, by=getpass.getuser(), note=note)
        stored = find_workspace(objects, name, namespace)
    return _tell_serving(name, stored.status.adapters.serving)


def _tell_serving(name: str, serving: AdapterRecord | None) -> int:
    assert serving
    sys.stdout.write(f"{name}@{serving.number} serves: {serving.image.digest}\n")
    return 0


def print_history(name: str, *, namespace: str | None, place: Place) -> int:
    """Print the adapters of a Workspace, oldest first, and what the last retuning came to."""
    with open_objects(place) as objects:
        stored = find_workspace(objects, name, namespace)
        next_retuning = objects.next_retuning(stored.workspace)
    adapters = stored.status.adapters
    rows: list[Mapping[str, str]] = [
        {
            "ADAPTER": f"{name}@{record.number}",
            "FATE": record.fate,
            "TUNED": record.tuned,
            "LOSS": f"{record.held_out.loss_after:.3f}" if record.held_out else "",
            "SECONDS": f"{record.making.seconds:.0f}" if record.making.seconds else "",
            "COST": record.making.cost,
            "DATA": record.data[:12],
            "SETTINGS": record.training[:12],
            "IMAGE": f"{record.image.reference}@{record.image.digest[:19]}",
            "BY": record.by,
            "WHY": one_line(record.why),
        }
        for record in adapters.records
    ]
    sys.stdout.write(columns(rows) if rows else "no adapter was tuned yet\n")
    if adapters.told:
        sys.stdout.write(f"last retuning: {one_line(adapters.told)}\n")
    if next_retuning:
        sys.stdout.write(f"next retuning: {next_retuning}\n")
    return 0


def print_diff(
    name: str, wanted: Sequence[str], *, namespace: str | None, output: str, place: Place
) -> int:
    """Print two adapters side by side: those that are named, or what `choose` takes for meant."""
    numbers = [_number(text, name) for text in wanted]
    with open_objects(place) as objects:
        adapters = find_workspace(objects, name, namespace).status.adapters
    told = diff(*choose(adapters, *numbers))
    if output == "json":
        sys.stdout.write(json.dumps(_document(told), indent=2) + "\n")
    elif output == "yaml":
        sys.stdout.write(yaml.safe_dump(_document(told), sort_keys=False))
    else:
        sys.stdout.write(diff_text(name, told, is_wide=output == "wide"))
    return 0


def _number(text: str, name: str) -> int:
    """The number in `3` or `quickstart@3`.

    Raises: WrongUsage.
    """
    number = text.removeprefix(f"{name}@")
    if not number.isdecimal():
        raise WrongUsage(
            f"adapter {text!r} of {name} was asked for",
            "that is no number of an adapter",
            f"name it as 3 or {name}@3 (kaitoflow history {name} lists them)",
        )
    return int(number)


def diff_text(name: str, told: AdapterDiff, *, is_wide: bool) -> str:
    """The two as columns, then what is a sentence; wide: settings that are the same, too."""
    before, after = (f"{name}@{record.number}" for record in (told.before, told.after))
    shown = told.settings if is_wide else told.other_settings
    known = [row for row in told.facts if row.before or row.after]
    rows = [{"": row.name, before: row.before, after: row.after} for row in (*known, *shown)]
    lines = [f"data: {one_line('; '.join(told.data))}", f"settings: {_settings(told)}"]
    if told.measured:
        lines.append(f"measured: {told.measured}")
    lines += [
        f"{name}@{record.number} ({record.by}): {one_line(record.why)}"
        for record in (told.before, told.after)
        if record.why
    ]
    return columns(rows) + "".join(f"{line}\n" for line in lines)


def _settings(told: AdapterDiff) -> str:
    """How many are the same, and how many are not."""
    if not (told.before.making.settings and told.after.making.settings):
        return "those of an adapter of an earlier version were not noted"
    others = len(told.other_settings)
    return f"{len(told.settings) - others} are the same, {others} differ"


def _document(told: AdapterDiff) -> dict[str, Any]:
    def row(each: Row) -> dict[str, str]:
        return {"name": each.name, "before": each.before, "after": each.after}

    return {
        "before": told.before.model_dump(mode="json", by_alias=True, exclude_none=True),
        "after": told.after.model_dump(mode="json", by_alias=True, exclude_none=True),
        "settings": [row(each) for each in told.other_settings],
        "data": [*told.data],
        "measured": told.measured,
    }
