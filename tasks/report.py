"""The report of a run as Markdown with a drawn loss curve. Pure."""

import base64
from collections.abc import Sequence
from xml.sax.saxutils import escape

from tasks.contract.adapter_diff import diff
from tasks.contract.adapter_history import AdapterHistory, AdapterRecord, Fate
from tasks.contract.artifacts import Endpoint, PublishedImage
from tasks.contract.held_cost import Cost
from tasks.contract.programs.tuning import HeldOut, LossAt
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import ObjectMeta

_WIDTH, _HEIGHT, _MARGIN = 640, 240, 44


def run_report(
    title: str, status: WorkspaceStatus, history: Sequence[LossAt], *, curve: str | None
) -> str:
    """What a run did and how well, for Prefect's UI.

    Args: curve: the loss curve as an SVG picture; None when nothing was trained.
    """
    parts = [f"# {title}", _results(status.image, status.endpoint), _steps(status)]
    if status.cost.machines:
        parts.append(_cost(status.cost))
    if status.held_out:
        parts.append(_held_out(status.held_out))
    if curve:
        encoded = base64.b64encode(curve.encode()).decode()
        parts.append(f"## Loss\n\n![training loss](data:image/svg+xml;base64,{encoded})")
    if history:
        parts.append(_first_and_last(history))
    return "\n\n".join(part for part in parts if part)


def loss_curve(history: Sequence[LossAt]) -> str | None:
    """Training loss over steps as SVG; None with fewer than two points."""
    points = [(each.step, each.loss) for each in history]
    if len(points) < 2:
        return None
    steps, losses = [p[0] for p in points], [p[1] for p in points]
    low, high = min(losses), max(losses)
    x_span, y_span = max(steps) - min(steps) or 1, (high - low) or 1.0
    inner_w, inner_h = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    line = " ".join(
        f"{_MARGIN + (s - min(steps)) / x_span * inner_w:.1f},"
        f"{_MARGIN + (high - v) / y_span * inner_h:.1f}"
        for s, v in points
    )
    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    labels = (
        (_MARGIN - 6, _MARGIN + 4, "end", f"{high:.2f}"),
        (_MARGIN - 6, bottom + 4, "end", f"{low:.2f}"),
        (_MARGIN, bottom + 18, "middle", str(min(steps))),
        (right, bottom + 18, "middle", f"step {max(steps)}"),
        (_WIDTH // 2, _MARGIN - 16, "middle", "training loss"),
    )
    texts = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{a}">{escape(t)}</text>' for x, y, a, t in labels
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<path d="M{_MARGIN} {_MARGIN}V{bottom}H{right}" fill="none" stroke="#888"/>'
        f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="2"/>{texts}</svg>'
    )


def _results(image: PublishedImage | None, endpoint: Endpoint | None) -> str:
    lines = []
    if image:
        lines.append(f"- Image: `{image.reference}@{image.digest}`")
        if image.layout_dir and not image.pushed:
            lines.append(f"- Kept in the OCI image layout `{image.layout_dir}`")
    if endpoint:
        lines.append(f"- Service: [{endpoint.url}]({endpoint.url})")
        lines.append(f"\n```\n{endpoint.curl}\n```")
    return "\n".join(lines)


def _cost(cost: Cost) -> str:
    rows = "\n".join(
        f"| {m.name} | {m.instance_type} | {m.capacity_type} | {m.since} | {m.until or 'held'} |"
        for m in cost.machines
    )
    heading = (
        "| machine | instance type | capacity | from | until |\n| --- | --- | --- | --- | --- |"
    )
    return f"## Cost\n\n{cost}, as of {cost.as_of}\n\n{heading}\n{rows}"


def _steps(status: WorkspaceStatus) -> str:
    rows = "\n".join(f"| {s.name} | {s.seconds:.1f} | {s.detail} |" for s in status.steps)
    return f"## Steps\n\n| step | seconds | result |\n| --- | ---: | --- |\n{rows}"


def _held_out(held_out: HeldOut) -> str:
    lines = [
        "## Held-out answers",
        (
            f"Loss on {held_out.rows} answers that were not trained on: "
            f"**{held_out.loss_before:.3f}** before, **{held_out.loss_after:.3f}** after"
            f"{held_out.verdict}."
        ),
    ]
    if sample := held_out.sample:
        lines += [
            f"> {sample.question}",
            f"Before: {' '.join(sample.before.split())}",
            f"After: {' '.join(sample.after.split())}",
        ]
    return "\n\n".join(lines)


def _first_and_last(history: Sequence[LossAt]) -> str:
    first, last = history[0], history[-1]
    start = f"{first.loss:.3f} (step {first.step})"
    return f"From {start} to {last.loss:.3f} (step {last.step})."


def adapters_report(title: str, adapters: AdapterHistory) -> str:
    """The adapters of a Workspace side by side, newest first, for Prefect's UI."""
    lines = [f"# {title}", ""]
    if adapters.told:
        lines += [_cell(adapters.told), ""]
    lines += ["| adapter | | held-out loss | cost | data | image | by | why |", "| --- " * 8 + "|"]
    for record in reversed(adapters.records):
        loss = f"{record.held_out.loss_after:.3f}" if record.held_out else ""
        image = f"`{record.image.reference}@{record.image.digest[:19]}`"
        cells = (
            str(record.number),
            record.fate,
            loss,
            record.making.cost,
            record.data[:12],
            image,
            record.by,
            record.why,
        )
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines)


def lineage_report(
    title: str, adapters: AdapterHistory, endpoint: Endpoint | None, *, runs_url: str | None
) -> str:
    """From which data each adapter came, by which run, and where it serves; newest first.

    Args: endpoint: at which the one answers that serves; None = nothing answers. runs_url: below
    which Prefect's UI shows runs; None = it is not known.
    """
    lines = [f"# {title}", "", "| dataset | run | adapter | serving |", "| --- " * 4 + "|"]
    for record in reversed(adapters.records):
        run, image = record.making.run, record.image
        cells = (
            _lineage_data(record),
            _linked(f"`{run[:8]}`", f"{runs_url}/{run}" if runs_url else "") if run else "",
            _linked(f"`{_cell(image.reference)}@{image.digest[:19]}`", image.url),
            _lineage_serving(record, endpoint),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _lineage_data(record: AdapterRecord) -> str:
    """The dataset's digest, its rows, and its files where these were noted."""
    making = record.making
    parts = [f"`{_cell(record.data)[:12]}`"] if record.data else []
    if making.rows is not None:
        parts.append(f"{making.rows} rows")
    for mark in making.files:
        is_address = mark.name.startswith(("https://", "http://"))
        parts.append(_linked(_cell(mark.name), _cell(mark.name) if is_address else ""))
    return ", ".join(parts)


def _lineage_serving(record: AdapterRecord, endpoint: Endpoint | None) -> str:
    told = f"adapter {record.number} of generation {record.generation or 'unknown'}: {record.fate}"
    if record.fate is Fate.SERVING and endpoint:
        told += f" at [{endpoint.url}]({endpoint.url})"
    if record.decided:
        told += f", {record.decided}"
    return told + (f" by {_cell(record.by)}" if record.by else "")


def _linked(text: str, url: str) -> str:
    """A link; the text alone where there is no address that a browser could open."""
    return f"[{text}]({url})" if url.startswith(("https://", "http://")) else text


def comparison_report(
    meta: ObjectMeta, candidate: AdapterRecord, serving: AdapterRecord | None
) -> str:
    """A candidate beside what serves, for a person who is to decide between them."""
    until = f" until {candidate.answer_by}" if candidate.answer_by else ""
    how = (
        f"Resume this run with yes or no{until}, or say `kaitoflow promote {meta.name}`, with "
        "`--refuse` for no. Without a word what serves goes on."
    )
    parts = [f"# Is {meta.name}@{candidate.number} to serve?", _cell(candidate.why), how]
    if serving:
        told = diff(serving, candidate)
        heading = (
            f"| | {meta.name}@{serving.number}, which serves | the candidate |",
            "| --- " * 3 + "|",
        )
        known = (row for row in told.facts if row.before or row.after)
        rows = (
            "| " + " | ".join(map(_cell, (row.name, row.before, row.after))) + " |"
            for row in (*known, *told.other_settings)
        )
        parts += ["\n".join((*heading, *rows)), f"Data: {_cell('; '.join(told.data))}."]
    for about, record in (("The candidate", candidate), ("What serves", serving)):
        if record and record.held_out and (sample := record.held_out.sample):
            said = (f"> {_cell(text)}" for text in (sample.question, sample.after))
            parts += [f"## {about} answers", *said]
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    """A text that stays in its cell, and that is no markup."""
    return escape(" ".join(text.split())).replace("|", "\\|")
