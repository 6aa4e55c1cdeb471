"""`kaitoflow get`, `describe`, `logs` and `version`: what is there, and what was said."""

import difflib
import json
import platform as machine
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from flows.view import console, describe_progress
from tasks.errors import KaitoflowError
from tasks.platform import local_platform
from tasks.platform.store import StoredWorkspace
from tasks.podlog import parse_event
from tasks.status import ConditionType

_KIND_WORDS = {"workspace", "workspaces", "wk", "wks"}
_WATCH_S = 1.0
_FOLLOW_S = 0.2
_STEP_ORDER = ("fetch-weights", "fetch-dataset", "tune", "push-image", "serve")


class WorkspaceNotFound(KaitoflowError):
    """No Workspace of that name was applied."""


def get_workspaces(names: Sequence[str], *, namespace: str | None, output: str, watch: bool) -> int:
    """Print Workspaces as kubectl would; with `watch`, again whenever something changes."""
    shown = ""
    while True:
        found = _chosen(names, namespace)
        text = _render(found, output, with_namespace=namespace is None, single=bool(names))
        if text != shown:
            sys.stdout.write(text)
            sys.stdout.flush()
            shown = text
        if not watch:
            return 0
        time.sleep(_WATCH_S)


def find_workspace(name: str, namespace: str) -> StoredWorkspace:
    """The Workspace of that name.

    Raises: WorkspaceNotFound: there is none; offers near names.
    """
    store = local_platform().store
    found = store.find(namespace, name)
    if found:
        return found
    known = [s.workspace.metadata.name for s in store.list(namespace)]
    near = difflib.get_close_matches(name, known, n=3)
    offer = f"did you mean {', '.join(near)}?" if near else "`kaitoflow get -A` lists all"
    raise WorkspaceNotFound(
        f"workspace {name!r} was asked for; namespace {namespace} has {len(known)} and this is "
        f"none of them; {offer}"
    )


def as_manifest(stored: StoredWorkspace) -> dict[str, Any]:
    """The Workspace as the object that kubectl would print."""
    manifest = stored.workspace.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
    )
    head = {"apiVersion": stored.workspace.api_version, "kind": "Workspace"}
    metadata = stored.workspace.metadata.model_dump(mode="json", by_alias=True)
    metadata["creationTimestamp"] = stored.created.strftime("%Y-%m-%dT%H:%M:%SZ")
    status = stored.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return head | manifest | {"metadata": metadata, "status": status}


def _chosen(names: Sequence[str], namespace: str | None) -> list[StoredWorkspace]:
    wanted = list(names[1:] if names and names[0] in _KIND_WORDS else names)
    if wanted:
        return [find_workspace(name, namespace or "default") for name in wanted]
    return list(local_platform().store.list(namespace))


def _render(
    found: list[StoredWorkspace], output: str, *, with_namespace: bool, single: bool
) -> str:
    if output in ("json", "yaml"):
        objects: Any = [as_manifest(stored) for stored in found]
        if single and len(objects) == 1:
            shown = objects[0]
        else:
            shown = {"apiVersion": "v1", "kind": "List", "items": objects}
        if output == "json":
            return json.dumps(shown, indent=2) + "\n"
        return yaml.safe_dump(shown, sort_keys=False)
    if not found:
        return "No workspaces found. Start one with: kaitoflow run WORKSPACE.yaml\n"
    rows = [_row(stored, wide=output == "wide") for stored in found]
    if with_namespace:
        rows = [
            {"NAMESPACE": s.workspace.metadata.namespace, **r}
            for s, r in zip(found, rows, strict=True)
        ]
    return _columns(rows)


def _row(stored: StoredWorkspace, *, wide: bool) -> dict[str, str]:
    def shown(kind: ConditionType) -> str:
        condition = stored.status.condition(kind)
        return condition.status if condition else ""

    status = stored.status
    serving = shown(ConditionType.INFERENCE_READY)
    if serving == "True" and not local_platform().is_serving(stored.workspace):
        serving = "False"
    row = {
        "NAME": stored.workspace.metadata.name,
        "INSTANCE": stored.workspace.resource.instance_type,
        "RESOURCEREADY": shown(ConditionType.RESOURCE_READY),
        "INFERENCEREADY": serving,
        "WORKSPACEREADY": shown(ConditionType.WORKSPACE_SUCCEEDED),
    }
    if wide:
        row |= {
            "JOBSTARTED": shown(ConditionType.JOB_STARTED),
            "STATE": status.state,
            "PROGRESS": describe_progress(status.progress).replace("  ", " "),
            "REASON": status.reason,
            "URL": status.endpoint.url if status.endpoint else "",
        }
    return row | {"AGE": age(stored.created)}


def age(since: datetime) -> str:
    """Time passed, as kubectl prints it: 45s, 12m, 3h, 2d."""
    seconds = int((datetime.now(UTC) - since).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _columns(rows: list[dict[str, str]]) -> str:
    """Columns three blanks apart, as kubectl prints them."""
    table = [list(rows[0]), *([value or " " for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = (
        "   ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in table
    )
    return "".join(f"{line}\n" for line in lines)


def describe_workspace(name: str, *, namespace: str) -> int:
    """Print everything that is known of a Workspace."""
    stored = find_workspace(name, namespace)
    out, status = console(), stored.status
    meta = stored.workspace.metadata
    out.print(f"Name:       {meta.name}")
    out.print(f"Namespace:  {meta.namespace}")
    out.print(f"Generation: {meta.generation}")
    out.print(f"Age:        {age(stored.created)}")
    out.print(f"State:      {status.state}")
    if status.progress.step_name:
        out.print(f"Now:        {describe_progress(status.progress)}")
    if status.image:
        out.print(f"Image:      {status.image.reference}@{status.image.digest}")
    if status.endpoint:
        up = "running" if local_platform().is_serving(stored.workspace) else "stopped"
        out.print(f"Service:    {status.endpoint.url} ({up})")
    _print_table(
        "Conditions",
        [
            {"TYPE": c.type, "STATUS": c.status, "REASON": c.reason, "MESSAGE": c.message}
            for c in status.conditions
        ],
    )
    _print_table(
        "Steps",
        [{"STEP": s.name, "SECONDS": f"{s.seconds:.1f}", "RESULT": s.detail} for s in status.steps],
    )
    return 0


def _print_table(title: str, rows: list[dict[str, str]]) -> None:
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


def print_logs(name: str, *, namespace: str, step: str | None, follow: bool, previous: bool) -> int:
    """Print the log of one step, or of all in the order in which they run."""
    workspace = find_workspace(name, namespace).workspace
    platform = local_platform()
    folder = platform.store.generation_dir(workspace) / "logs"

    def is_live() -> bool:
        says_more = step in (None, "serve") and platform.is_serving(workspace)
        return follow and (says_more or platform.run_holder(workspace) is not None)

    for line in _log_lines(folder, step, previous=previous, is_live=is_live):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0


def _log_lines(
    folder: Path, step: str | None, *, previous: bool, is_live: Callable[[], bool]
) -> Iterator[str]:
    suffix = ".previous.log" if previous else ".log"
    steps = (step,) if step else _STEP_ORDER
    files = {name: folder / f"{name}{suffix}" for name in steps}
    if step and not files[step].exists():
        known = ", ".join(p.name.removesuffix(suffix) for p in sorted(folder.glob(f"*{suffix}")))
        raise WorkspaceNotFound(
            f"the log of step {step!r} was asked for; there are logs of: {known or 'none yet'}; "
            "choose one of those with --step"
        )
    offsets = dict.fromkeys(files, 0)
    while True:
        goes_on = is_live()  # looked at before reading, so that the last lines are not missed
        for name, file in files.items():
            for line in _new_lines(file, offsets, name):
                yield f"{name} | {_readable(line)}" if not step else _readable(line)
        if not goes_on:
            return
        time.sleep(_FOLLOW_S)


def _new_lines(file: Path, offsets: dict[str, int], name: str) -> Iterator[str]:
    if not file.exists():
        return
    if file.stat().st_size < offsets[name]:
        offsets[name] = 0  # a fresh start of the step began the file anew
    with file.open("rb") as log:
        log.seek(offsets[name])
        for line in log:
            if not line.endswith(b"\n"):
                break
            offsets[name] += len(line)
            yield line.decode(errors="replace").rstrip("\n")


def _readable(line: str) -> str:
    """An event as `event key=value ...`; other lines as they are."""
    event = parse_event(line)
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
