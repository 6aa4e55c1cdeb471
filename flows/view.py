"""What a person sees of a plan and a run: tables and a live bar in a terminal, else plain lines."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.contract.artifacts import Check, Plan
from tasks.contract.redaction import one_line
from tasks.contract.status import FinishedStep, Progress, WorkspaceStatus
from tasks.contract.units import duration
from tasks.contract.workspace import Workspace

_PLAIN_EVERY_S = 5.0
_PLAIN_WIDTH = 200
_BAR_WIDTH = 30
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def console() -> Console:
    """Standard output; without a terminal, wide, plain and never cut.

    No text is markup: what a registry or a dataset said may have brackets in it.
    """
    if sys.stdout.isatty():
        return Console(highlight=False, emoji=False, markup=False)
    width = _PLAIN_WIDTH
    return Console(width=width, soft_wrap=True, highlight=False, emoji=False, markup=False)


def print_plan(plan: Plan) -> None:
    """The checks as a table, then one verdict; the fix stands in the row it belongs to."""
    out = console()
    print_checks(plan.checks)
    if plan.unchecked:
        out.print(f"Not checked: {'; '.join(plan.unchecked)}.", style="dim")
    if plan.refused:
        names = ", ".join(check.name for check in plan.refused)
        out.print(f"Plan refused: {names}. Nothing was created.", style="bold red")
    else:
        out.print("Plan accepted.", style="green")


def print_checks(checks: Sequence[Check]) -> None:
    """A row for each, below it the fix where there is one."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for heading in ("CHECK", "RESULT", "DETAIL"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(check.name, Text(check.result, style=_COLOURS[check.result]), check.detail)
        if check.fix:
            table.add_row("", "", Text(f"fix: {check.fix}", style="italic"))
    console().print(table, soft_wrap=False)


class RunView:
    """A run as it goes: finished steps one a line, and what is under way below them."""

    def __init__(self, workspace: Workspace, live: Live | None) -> None:
        """Draw in `live`, the terminal's live area; None prints plain lines."""
        self._workspace = workspace
        self._live = live
        self._out = live.console if live else console()
        self._shown: list[FinishedStep] = []
        self._is_in_cluster = self._is_of_several = False
        self._heading = self._text = ""
        self._last_plain_s = 0.0

    def waiting_for_prefect(self, waited_s: float) -> None:
        """The Prefect server is coming up."""
        if self._live:
            self._live.update(Text(f"  starting a Prefect server ... {waited_s:.0f} s", "dim"))
        elif not self._heading:
            self._heading = "prefect"
            self._out.print("starting a Prefect server (10 to 30 s)")

    def started(self, ui_url: str, password_file: Path | None) -> None:
        """The run can be watched in Prefect's UI, too."""
        password = f" (password in {password_file})" if password_file else ""
        self._out.print(f"run {self._workspace}: watch it at {ui_url}{password}")

    def goes_on_from(self, status: WorkspaceStatus) -> None:
        """What was done before is not shown as if it were of this run."""
        self._shown = [*status.steps]

    def follows_generations(self) -> None:
        """Have whatever generation the run is at shown, one after the other."""
        self._is_of_several = True

    def applied(self, context: str) -> None:
        """The Workspace is the cluster's now, and what is shown is its status."""
        self._is_in_cluster = True
        where = f"cluster {context}" if context else "the cluster"
        self._out.print(f"run {self._workspace}: applied to {where}; Ctrl-C only stops watching")

    def show(self, status: WorkspaceStatus) -> None:
        """Bring the view up to date with the status."""
        is_another = status.observed_generation != self._workspace.metadata.generation
        if is_another and not self._is_of_several:
            return
        for step in status.steps:
            if step not in self._shown:
                told = f" {step.name:<10} {step.seconds:6.1f} s  {step.detail}"
                self._out.print(Text.assemble(("done", "green"), told))
        self._shown = [*status.steps]
        if self._live:
            self._live.update(_bar(status.progress))
        else:
            self._show_plain(status.progress)

    def _show_plain(self, progress: Progress) -> None:
        now = time.monotonic()
        text = describe_progress(progress)
        heading = f"{progress.step_name} {progress.phase}"
        is_due = heading != self._heading or now - self._last_plain_s >= _PLAIN_EVERY_S
        if not text or text == self._text or not is_due:
            return
        self._heading, self._text, self._last_plain_s = heading, text, now
        self._out.print(f"     {text}")

    def print_outcome(self, status: WorkspaceStatus) -> None:
        """What was made and how to use it."""
        out = console()
        out.print()
        _print_held_out(out, status)
        if status.image:
            where = "" if status.image.pushed else f"  (OCI layout {status.image.layout_dir})"
            out.print(f"image   {status.image.reference}@{status.image.digest}{where}")
        name = self._workspace.metadata.name
        if status.endpoint and self._is_in_cluster:
            out.print(f"url     {status.endpoint.url}  (inside the cluster)")
            out.print(f"try     kaitoflow chat {name} 'What does os.path.join do?'")
        elif status.endpoint:
            out.print(f"url     {status.endpoint.url}")
            out.print(f"try     {status.endpoint.curl}")
        out.print(f"next    kaitoflow chat {name} | kaitoflow logs {name} | kaitoflow stop {name}")


@contextlib.contextmanager
def run_view(workspace: Workspace) -> Iterator[RunView]:
    """The view of a run, live as long as the context lasts."""
    out = console()
    if not out.is_terminal:
        yield RunView(workspace, None)
        return
    with Live(console=out, refresh_per_second=5, transient=True) as live:
        yield RunView(workspace, live)


def describe_progress(progress: Progress) -> str:
    """What is under way in one line; empty when nothing is."""
    if not progress.step_name:
        return ""
    parts = [progress.step_name]
    if progress.phase:
        parts.append(progress.phase)
    if progress.steps:
        parts.append(f"{progress.step}/{progress.steps}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.tokens_per_s:
        parts.append(f"{progress.tokens_per_s:.0f} tokens/s")
    if progress.eta_s is not None:
        parts.append(f"ETA {duration(progress.eta_s)}")
    return "  ".join(parts)


def _bar(progress: Progress) -> Group | Text:
    if not progress.step_name:
        return Text("")
    text = Text("  " + describe_progress(progress))
    if not progress.steps:
        return text
    bar = ProgressBar(total=progress.steps, completed=progress.step, width=_BAR_WIDTH)
    row = Table.grid(padding=(0, 1))
    row.add_row(" ", bar, f"{progress.percent:.0f} %")
    return Group(text, row)


def _print_held_out(out: Console, status: WorkspaceStatus) -> None:
    held_out = status.held_out
    if not held_out:
        return
    out.print(
        f"held-out loss on {held_out.rows} answers: "
        f"{held_out.loss_before:.3f} before, {held_out.loss_after:.3f} after tuning"
        f"{held_out.verdict}"
    )
    if sample := held_out.sample:
        said = {"question": sample.question, "before": sample.before, "after": sample.after}
        for label, text in said.items():
            out.print(f"  {label:<9} {one_line(' '.join(text.split()))}")
