"""`kaitoflow get`, `describe`, `logs` and `version`: what is there, and what was said."""

import json
import platform as machine
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TypeVar

import yaml
from rich.table import Table

from flows.places.base import Manifest, Objects, Row, age, find_workspace, not_found
from flows.places.place import Place, open_objects
from flows.timeline import Moment, time_line
from flows.view import console, describe_progress
from tasks.contract.errors import is_reason
from tasks.contract.podlog import parse_event
from tasks.contract.redaction import harmless, one_line

_KIND_WORDS = {"workspace", "workspaces", "wk", "wks"}
_WATCH_S = 1.0

T = TypeVar("T")


def get_workspaces(
    names: Sequence[str],
    *,
    namespace: str | None,
    all_namespaces: bool,
    output: str,
    watch: bool,
    place: Place,
) -> int:
    """Print Workspaces as kubectl would; with `watch`, again whenever something changes."""
    wanted = list(names[1:] if names and names[0] in _KIND_WORDS else names)
    render = _render_objects if output in ("json", "yaml") else _render_rows
    shown = ""
    with open_objects(place) as objects:
        chosen = None if all_namespaces else namespace or objects.namespace
        while True:
            text = render(objects, wanted, chosen, output)
            if text != shown:
                sys.stdout.write(text)
                sys.stdout.flush()
                _tell_damage(objects, chosen)
                shown = text
            if not watch:
                return 0
            time.sleep(_WATCH_S)


def _tell_damage(objects: Objects, namespace: str | None) -> None:
    for damage in objects.damage(namespace):
        sys.stderr.write(f"{harmless(damage)}\n")


def _named(
    found: list[T], wanted: list[str], namespace: str | None, name_of: Callable[[T], str]
) -> list[T]:
    """Those of the wanted names, in that order; all, when none is named.

    Raises: WorkspaceNotFound: there is none of such a name.
    """
    known = [name_of(each) for each in found]
    for name in wanted:
        if name not in known:
            raise not_found(name, namespace or "of any name", known)
    return [each for name in wanted for each in found if name_of(each) == name] or found


def _render_objects(objects: Objects, wanted: list[str], namespace: str | None, output: str) -> str:
    def name_of(manifest: Manifest) -> str:
        return str(manifest["metadata"]["name"])

    found = _named(objects.manifests(namespace), wanted, namespace, name_of)
    if len(wanted) == len(found) == 1:
        shown = found[0]
    else:
        shown = {"apiVersion": "v1", "kind": "List", "items": found}
    if output == "json":
        return json.dumps(shown, indent=2) + "\n"
    return yaml.safe_dump(shown, sort_keys=False)


def _render_rows(objects: Objects, wanted: list[str], namespace: str | None, output: str) -> str:
    def name_of(row: Row) -> str:
        return row.name

    rows = objects.rows(namespace, wide=output == "wide")
    rows = _named(rows, wanted, namespace, name_of)
    if not rows:
        return "No workspaces found. Start one with: kaitoflow run WORKSPACE.yaml\n"
    # A column that kubectl has not, only where it says something.
    has_next = output == "wide" and any(row.next_retuning for row in rows)
    return columns([_cells(row, is_of_all=namespace is None, has_next=has_next) for row in rows])


def _cells(row: Row, *, is_of_all: bool, has_next: bool) -> dict[str, str]:
    cells = {"NAMESPACE": row.namespace} if is_of_all else {}
    cells |= row.values
    if has_next:
        cells |= {"NEXTRETUNING": row.next_retuning, "AGE": cells.pop("AGE")}
    return cells


def columns(rows: Sequence[Mapping[str, str]], *, headings: bool = True) -> str:
    """Columns three blanks apart, as kubectl prints them."""
    table = [[value or " " for value in row.values()] for row in rows]
    if headings:
        table.insert(0, list(rows[0]))
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = (
        "   ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in table
    )
    return "".join(f"{line}\n" for line in lines)


def describe_workspace(name: str, *, namespace: str | None, place: Place) -> int:
    """Print everything that is known of a Workspace."""
    with open_objects(place) as objects:
        stored = find_workspace(objects, name, namespace)
        is_serving = objects.is_serving(stored.workspace)
        moments = time_line(stored.status, objects.events(stored.workspace))
        next_retuning = objects.next_retuning(stored.workspace)
    out, status = console(), stored.status
    meta = stored.workspace.metadata
    out.print(f"Name:       {meta.name}")
    out.print(f"Namespace:  {meta.namespace}")
    out.print(f"Generation: {meta.generation}")
    out.print(f"Age:        {age(stored.created)}")
    out.print(f"State:      {status.state}")
    if status.serves_older:
        out.print(f"Serves:     generation {status.served_generation}")
    if status.progress.step_name:
        out.print(f"Now:        {describe_progress(status.progress)}")
    if cost := str(status.cost.at(datetime.now(UTC))):
        out.print(f"Cost:       {cost}")
    if status.image:
        out.print(f"Image:      {status.image.reference}@{status.image.digest}")
    if serving := status.adapters.serving:
        out.print(
            f"Adapter:    {meta.name}@{serving.number} ({serving.by}: {one_line(serving.why)})"
        )
    if status.adapters.told:
        out.print(f"Retuned:    {one_line(status.adapters.told)}")
    if next_retuning:
        out.print(f"Retunes:    {next_retuning}")
    if status.endpoint:
        up = "running" if is_serving else "stopped"
        out.print(f"Service:    {status.endpoint.url} ({up})")
    _print_table(
        "Conditions",
        [
            {"TYPE": c.type, "STATUS": c.status, "REASON": c.reason, "MESSAGE": c.message}
            for c in status.conditions
        ],
    )
    if troubles := [c.reason for c in status.conditions if c.is_failure and is_reason(c.reason)]:
        out.print(f"What to do: kaitoflow explain {troubles[0]}")
    _print_table("Time line", [_line(moment) for moment in moments])
    return 0


def _line(moment: Moment) -> Mapping[str, str]:
    """A moment as a row; a warning is marked, since not every terminal has colours."""
    return {
        "TIME": moment.at or "unknown",
        "": "!" if moment.is_warning else "",
        "PLACE": moment.place,
        "WHAT": moment.what,
        "TOLD": one_line(moment.told),
    }


def print_events(
    name: str | None, *, namespace: str | None, all_namespaces: bool, watch: bool, place: Place
) -> int:
    """Print what happened to Workspaces, or to one, oldest first; with `watch` go on with news."""
    printed: set[tuple[str, Moment]] = set()
    with open_objects(place) as objects:
        chosen = None if all_namespaces else namespace or objects.namespace
        while True:
            found = _moments(objects, name, chosen)
            new = [each for each in found if each not in printed]
            rows = [{"WORKSPACE": whose, **_line(moment)} for whose, moment in new]
            if rows:
                sys.stdout.write(columns(rows, headings=not printed))
                sys.stdout.flush()
            elif not (printed or watch):
                sys.stdout.write("No events found.\n")
            printed.update(new)
            if not watch:
                return 0
            time.sleep(_WATCH_S)


def _moments(objects: Objects, name: str | None, namespace: str | None) -> list[tuple[str, Moment]]:
    """What happened to the Workspaces of a namespace (None = of all), or to the one of a name."""
    if name:
        stored = [find_workspace(objects, name, namespace)]
    else:
        rows = objects.rows(namespace, wide=False)
        stored = [found for row in rows if (found := objects.find(row.namespace, row.name))]
    told = [
        (str(each.workspace), moment)
        for each in stored
        for moment in time_line(each.status, objects.events(each.workspace))
    ]
    return sorted(told, key=lambda each: each[1].at)


def _print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    if not rows:
        return
    out = console()
    out.print(f"{title}:")
    table = Table(box=None, pad_edge=False)
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    out.print(table, soft_wrap=False)


def print_logs(
    name: str,
    *,
    namespace: str | None,
    step: str | None,
    follow: bool,
    previous: bool,
    place: Place,
) -> int:
    """Print the log of one step, or of all in the order in which they run."""
    with open_objects(place) as objects:
        workspace = find_workspace(objects, name, namespace).workspace
        lines = objects.log_lines(workspace, step=step, follow=follow, previous=previous)
        for said_by, line in lines:
            text = one_line(_readable(line))
            sys.stdout.write(f"{text}\n" if step else f"{said_by} | {text}\n")
            sys.stdout.flush()
    return 0


def _readable(line: str) -> str:
    """An event as `event key=value ...`; other lines as they are."""
    event: dict[str, Any] | None = parse_event(line)
    if not event:
        return line
    fields = {k: v for k, v in event.items() if k != "event" and not isinstance(v, dict | list)}
    return " ".join([event["event"], *(f"{k}={v}" for k, v in fields.items())])


def print_version() -> int:
    """Print the versions a report of a problem needs."""
    sys.stdout.write(
        f"kaitoflow {version('kaitoflow')} (Prefect {version('prefect')}, "
        f"Python {machine.python_version()})\n"
    )
    return 0
