"""`kaitoflow leaks`: machines that nobody needs, with what they cost, and their end."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from flows.commands.show import columns
from flows.places.base import age
from flows.places.place import Place, open_objects
from tasks.contract.units import utc_text

if TYPE_CHECKING:
    # It knows the API server's client, whose import takes a second.
    from tasks.nodes.garbage.leaks import Leak


def show_leaks(*, collect: bool, output: str, place: Place) -> int:
    """Print what is leaked, with `collect` what is still there after that; 1 when that is any."""
    with open_objects(place) as objects:
        removed = objects.collect_leaks() if collect else ()
        found = objects.leaks()
    for leak in removed:
        sys.stderr.write(f"{leak.kind}/{leak.name} removed\n")
    if output in ("json", "yaml"):
        sys.stdout.write(_document(found, output))
    else:
        sys.stdout.write(leaks_table(found, is_wide=output == "wide"))
    return 1 if found else 0


def _document(leaks: Sequence["Leak"], output: str) -> str:
    shown = {"leaks": [_fields(leak) for leak in leaks], "pricePerHour": _total(leaks)}
    if output == "json":
        return json.dumps(shown, indent=2) + "\n"
    return yaml.safe_dump(shown, sort_keys=False)


def _fields(leak: "Leak") -> dict[str, Any]:
    return {
        "name": leak.name,
        "kind": leak.kind.value,
        "workspace": leak.workspace,
        "instanceType": leak.instance_type,
        "capacityType": leak.capacity_type,
        "nodes": [*leak.nodes],
        "since": utc_text(leak.since) if leak.since else None,
        "pricePerHour": leak.price_per_hour,
        "keptBecause": leak.kept_because,
    }


def leaks_table(leaks: Sequence["Leak"], *, is_wide: bool) -> str:
    """A line for each with its price, then what they cost together and the next step."""
    if not leaks:
        return "0 leaks\n"
    return columns([_row(leak, is_wide=is_wide) for leak in leaks]) + _verdict(leaks)


def _row(leak: "Leak", *, is_wide: bool) -> Mapping[str, str]:
    row = {
        "NAME": leak.name,
        "KIND": leak.kind.value,
        "WORKSPACE": leak.workspace,
        "INSTANCE": leak.instance_type,
        "SINCE": age(leak.since) if leak.since else "unknown",
        "PRICE/H": "unknown" if leak.price_per_hour is None else f"${leak.price_per_hour:.2f}",
    }
    if is_wide:
        row |= {"CAPACITY": leak.capacity_type, "KEPT": leak.kept_because or "no"}
    return row


def _verdict(leaks: Sequence["Leak"]) -> str:
    """How many, what they cost together, and what to do."""
    unknown = "at least " if any(leak.price_per_hour is None for leak in leaks) else ""
    number = f"{len(leaks)} leaks" if len(leaks) > 1 else "1 leak"
    cost = f"{number}, {unknown}${_total(leaks):.2f} per hour"
    kept = sum(bool(leak.kept_because) for leak in leaks)
    steps = []
    if kept < len(leaks):
        steps.append("remove with: kaitoflow leaks --collect")
    if kept:
        steps.append(f"{kept} kept, the reason is in: kaitoflow leaks -o wide")
    return f"{cost}; {'; '.join(steps)}\n"


def _total(leaks: Sequence["Leak"]) -> float:
    return sum(leak.price_per_hour or 0 for leak in leaks)
