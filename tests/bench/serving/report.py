"""What was measured, as JSON for programs and as tables for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.serving.measures import Spread, ratios, spreads
from tests.bench.serving.repetitions import Measured, Repetitions

OURS = "ours"
WITH_ADAPTERS = ("ours_one_adapter", "ours_mixed")
_NOTHING = "-"
_QUIET_CORES = 0.2  # that others may use before figures are not to be quoted
# Title of a column, the figure in it, and its digits after the point.
_Columns = Sequence[tuple[str, str, int]]
_CLIENTS: _Columns = (
    ("tokens/s", "output_tokens_per_s", 1),
    ("first token p50 ms", "ttft_p50_ms", 0),
    ("p99 ms", "ttft_p99_ms", 0),
    ("per token p50 ms", "tpot_p50_ms", 1),
    ("p99 ms", "tpot_p99_ms", 1),
    ("CPU s", "cpu_s", 1),
)
_SCENARIOS: Mapping[str, tuple[str, _Columns]] = {
    "long_prompt_joins": (
        "A prompt of 1,500 tokens joins 8 streams",
        (
            ("longest wait of a stream ms", "longest_gap_ms", 0),
            ("before it came ms", "longest_gap_before_ms", 0),
            ("its first token ms", "ttft_ms", 0),
            ("streams that ran", "streams_running", 0),
        ),
    ),
    "known_prefix": (
        "Requests with one system prompt of 1,000 tokens, one after the other",
        (
            ("first token of the first ms", "first_ttft_ms", 0),
            ("of the others p50 ms", "later_ttft_p50_ms", 0),
            ("others / first", "later_to_first", 2),
        ),
    ),
}
# By which ours and another are held against each other in the tables.
_COMPARED = {"long_prompt_joins": "longest_gap_ms", "known_prefix": "later_ttft_p50_ms"}
_COMPARED_WITH_CLIENTS = "output_tokens_per_s"


@dataclass(frozen=True)
class Used:
    """What one server is and what it took, whatever it was asked; memory as `Running` tells it."""

    version: str
    settings: str
    ready_s: float
    peak_rss_mb: float
    rss_shared_once_mb: float
    cpu_s: float


@dataclass(frozen=True)
class Results:
    """One run. asked, machine: told as they are. left_out: a reason for each who took no part."""

    asked: Mapping[str, Any]
    machine: Mapping[str, Any]
    servers: Mapping[str, Used]
    left_out: Mapping[str, str]
    measured: Measured


def as_json(results: Results) -> dict[str, Any]:
    """By server and case: medians under the figures' names, least and most in `spread`."""
    servers = {name: _told_server(results, name) for name in results.servers}
    pairs = {f"{one}/{other}": _told_ratios(results, one, other) for one, other in _pairs(results)}
    return servers | {
        "ratios": pairs,
        "left_out": dict(results.left_out),
        "not_measured": list(results.measured.left),
        "asked": dict(results.asked),
        "machine": dict(results.machine),
    }


def _told_server(results: Results, name: str) -> dict[str, Any]:
    used, cases = results.servers[name], results.measured.by[name]
    return {
        "ready_s": round(used.ready_s, 1),
        "peak_rss_mb": round(used.peak_rss_mb),
        "rss_shared_once_mb": round(used.rss_shared_once_mb),
        "cpu_s": round(used.cpu_s, 1),
        "version": used.version,
        "settings": used.settings,
        **{case: _told_case(repetitions) for case, repetitions in cases.items()},
    }


def _told_case(repetitions: Repetitions) -> dict[str, Any]:
    there = [outcome for outcome in repetitions if outcome]
    failures = _failures(repetitions)
    return {
        **_told(spreads([outcome.figures for outcome in there])),
        "failed": failures.total(),
        "failures": dict(failures),
        "repetitions": len(there),
    }


def _failures(repetitions: Repetitions) -> Counter[str]:
    """Of all repetitions together."""
    return sum((outcome.failures for outcome in repetitions if outcome), Counter())


def _told(found: Mapping[str, Spread | None]) -> dict[str, Any]:
    medians = {name: _rounded(each.median) if each else None for name, each in found.items()}
    least_and_most = {
        name: [_rounded(each.least), _rounded(each.most)] for name, each in found.items() if each
    }
    return medians | {"spread": least_and_most}


def _rounded(value: float) -> float:
    """To four digits that count: more would be noise."""
    return float(f"{value:.4g}")


def _pairs(results: Results) -> list[tuple[str, str]]:
    """Who is held against whom: ours against each peer, ours with adapters against without."""
    if OURS not in results.servers:
        return []
    adapted = [name for name in WITH_ADAPTERS if name in results.servers]
    peers = [name for name in results.servers if name not in {OURS, *adapted}]
    return [*((OURS, peer) for peer in peers), *((name, OURS) for name in adapted)]


def _told_ratios(results: Results, one: str, other: str) -> dict[str, Any]:
    by, servers = results.measured.by, results.servers
    cases = {
        case: _told(ratios(found, by[other][case]))
        for case, found in by[one].items()
        if case in by[other]
    }
    return {
        "ready_s": _rounded(servers[one].ready_s / servers[other].ready_s),
        "peak_rss_mb": _rounded(servers[one].peak_rss_mb / servers[other].peak_rss_mb),
        "rss_shared_once_mb": _rounded(
            servers[one].rss_shared_once_mb / servers[other].rss_shared_once_mb
        ),
        **cases,
    }


def table(results: Results) -> str:
    """All of it for people: medians (least to most), and how ours stands to each other server."""
    cases = dict.fromkeys(case for found in results.measured.by.values() for case in found)
    blocks = [_heading(results), *(_of_case(results, case) for case in cases)]
    blocks += [_of_servers(results), _of_the_rest(results)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _heading(results: Results) -> str:
    lines = [
        ", ".join(f"{name} {_plain(value)}" for name, value in each.items())
        for each in (results.asked, results.machine)
    ]
    told = "Median (least to most) of the repetitions; ours / it: in the same repetition."
    return "\n".join([*lines, told])


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _of_case(results: Results, case: str) -> str:
    title, columns = _SCENARIOS.get(case, (f"Clients at once: {case}", _CLIENTS))
    rows = [["", "ours / it", *(column for column, _, _ in columns), "failed"]]
    for name in results.servers:
        if (repetitions := results.measured.by[name].get(case)) is None:
            continue
        found = spreads([outcome.figures for outcome in repetitions if outcome])
        cells = [_cell(found.get(figure), digits) for _, figure, digits in columns]
        failed = str(_failures(repetitions).total())
        rows.append([name, _ours_to(results, name, case), *cells, failed])
    return f"{title}\n{_aligned(rows)}"


def _ours_to(results: Results, name: str, case: str) -> str:
    by = results.measured.by
    if name == OURS or OURS not in by:
        return _NOTHING
    figure = _COMPARED.get(case, _COMPARED_WITH_CLIENTS)
    return _cell(ratios(by[OURS][case], by[name][case]).get(figure), 2)


def _cell(found: Spread | None, digits: int) -> str:
    if found is None:
        return _NOTHING
    least, median, most = (f"{each:.{digits}f}" for each in (found.least, found.median, found.most))
    return median if least == most else f"{median} ({least} to {most})"


def _of_servers(results: Results) -> str:
    ours = results.servers.get(OURS)
    head = ["", "ready s", "peak memory MB", "ours / it", "shared once MB", "CPU s"]
    rows = [[*head, "version", "set up"]]
    for name, used in results.servers.items():
        share = f"{ours.peak_rss_mb / used.peak_rss_mb:.2f}" if ours else _NOTHING
        ready_s, peak_mb = f"{used.ready_s:.1f}", f"{used.peak_rss_mb:.0f}"
        numbers = [ready_s, peak_mb, share, f"{used.rss_shared_once_mb:.0f}", f"{used.cpu_s:.0f}"]
        rows.append([name, *numbers, used.version, used.settings])
    return f"Servers\n{_aligned(rows, words=2)}"


def _of_the_rest(results: Results) -> str:
    """Who took no part, what was not done, and why requests failed."""
    lines = [f"left out: {name}: {reason}" for name, reason in results.left_out.items()]
    if (cores := results.machine.get("cores_of_others", 0.0)) > _QUIET_CORES:
        lines.append(
            f"the machine was busy: others used {cores} cores; threads that spin suffer most"
        )
    lines += [f"not measured: {each}" for each in results.measured.left]
    lines += [
        f"failed: {name}, {case}: {count} x {reason}"
        for name, cases in results.measured.by.items()
        for case, repetitions in cases.items()
        for reason, count in _failures(repetitions).items()
    ]
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]], *, words: int = 0) -> str:
    """Columns side by side: names on the left, numbers on the right, then so many of words."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = range(1, len(widths) - words)
    lines = [
        "  ".join(
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
