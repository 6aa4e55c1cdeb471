"""`kaitoflow retune`, `promote`, `rollback` and `history`: which of its adapters a model has."""

import getpass
import sys
from collections.abc import Mapping
from pathlib import Path

from flows.commands.run import load_manifests
from flows.commands.show import columns
from flows.places.base import find_workspace
from flows.places.place import Place, open_objects
from tasks.contract.adapter_history import AdapterRecord
from tasks.contract.errors import AdapterNotFound
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
    name: str, *, number: int | None, note: str, namespace: str | None, place: Place
) -> int:
    """Have one of a Workspace's adapters serve."""
    with open_objects(place) as objects:
        stored = find_workspace(objects, name, namespace)
        objects.promote(stored.workspace, number, by=getpass.getuser(), note=note)
        stored = find_workspace(objects, name, namespace)
    return _tell_serving(name, stored.status.adapters.serving)


def rollback(name: str, *, note: str, namespace: str | None, place: Place) -> int:
    """Have the adapter serve that did before."""
    with open_objects(place) as objects:
        stored = find_workspace(objects, name, namespace)
        former = stored.status.adapters.former
        if former is None:
            raise AdapterNotFound(
                f"{stored.workspace} was to go back to the adapter before",
                "none has served before the one that does",
                f"see which there are (kaitoflow history {name})",
            )
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
        adapters = find_workspace(objects, name, namespace).status.adapters
    rows: list[Mapping[str, str]] = [
        {
            "ADAPTER": f"{name}@{record.number}",
            "FATE": record.fate,
            "TUNED": record.tuned,
            "LOSS": f"{record.held_out.loss_after:.3f}" if record.held_out else "",
            "SECONDS": f"{record.seconds:.0f}" if record.seconds else "",
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
    return 0
