"""What it costs to keep Workspaces true once they are, and how soon what was deleted is back.

Run as `python tests/bench/bench_settled.py [--many 200] [--harmed 20] [--quiet-s 60]
[--logs FOLDER]`. Everything is real and runs as the chart runs it; one node plays its kubelet, and
its pods do their work at once. All Workspaces are tuned and served first. Then nothing is done for
a while, in which nothing may be written; then of some of them, one at a time, the Service or the
StatefulSet is deleted. Prints the figures, writes build/bench/settled.json, and exits with 1 where
a figure is out of its bound.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is started by its path

from tasks.contract.status import ConditionType, status_of  # noqa: E402
from tasks.platform.kube_api import KubeApi  # noqa: E402
from tasks.platform.manifests.labels import MANAGED_BY  # noqa: E402
from tests.bench.installation import Installation, running_installation  # noqa: E402
from tests.bench.workspaces import NAMESPACE, apply, connected, folder_of_logs  # noqa: E402

_SETTLED_WITHIN_S, _BACK_WITHIN_S, _LOOK_S = 900.0, 60.0, 0.05
# From the last Workspace's being Ready until its run has ended in Prefect, too.
_CALM_S = 30.0
_DELETED = ("Service", "StatefulSet")
# What stands where KAITO's controller does.
_OURS = ("watcher", "worker")
_KEPT = ("Workspace", "Job", "StatefulSet", "Service", "ConfigMap")
# What is deleted of a Workspace is back, and its conditions have told of it, within so long; and so
# much of a core may so many cost the watcher.
_BOUND_S, _CORES, _OF_WORKSPACES = 5.0, 0.05, 200


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--many", type=int, default=200, help="Workspaces that are kept")
    parser.add_argument(
        "--harmed", type=int, default=20, help="Workspaces of which each kind is deleted"
    )
    parser.add_argument("--quiet-s", type=float, default=60.0, help="seconds without an act")
    parser.add_argument("--logs", type=Path, help="an empty folder for all logs; else they go")
    options = parser.parse_args()
    with folder_of_logs(options.logs) as folder, running_installation(folder) as installation:
        measured = asyncio.run(
            _measure(
                installation, many=options.many, harmed=options.harmed, quiet_s=options.quiet_s
            )
        )
    _report(measured)
    missed = out_of_bounds(measured)
    sys.stdout.write("".join(f"out of its bound: {each}\n" for each in missed))
    return 1 if missed else 0


async def _measure(
    installation: Installation, *, many: int, harmed: int, quiet_s: float
) -> dict[str, Any]:
    async with connected(installation) as api:
        began_s = time.monotonic()
        await asyncio.gather(*(apply(api, f"kept-{n}") for n in range(many)))
        await _wait_until_ready(api, many)
        ready_s = time.monotonic() - began_s
        await asyncio.sleep(_CALM_S)
        quiet = await _stay_quiet(installation, api, quiet_s)
        deletions = dict[str, list[Deletion]]()
        for at, kind in enumerate(_DELETED):
            # Of each Workspace one thing: what is repaired again at once waits ever longer.
            numbers = range(at * harmed, (at + 1) * harmed)
            deletions[kind] = [await _delete(api, kind, number) for number in numbers]
        await _wait_until_ready(api, many)
    return {
        "workspaces": many,
        "all_ready_s": round(ready_s, 1),
        **quiet,
        "back_s": {
            kind: _spread([each.back_s for each in found]) for kind, found in deletions.items()
        },
        "told_s": {
            kind: _spread([each.told_s for each in found]) for kind, found in deletions.items()
        },
    }


def _spread(samples: Sequence[float]) -> dict[str, float]:
    return {
        "samples": len(samples),
        "p50": round(statistics.median(samples), 2),
        "most": round(max(samples), 2),
    }


async def _wait_until_ready(api: KubeApi, many: int) -> None:
    """Return when all are served as asked."""
    async with asyncio.timeout(_SETTLED_WITHIN_S):
        while True:
            found = await api.find("Workspace", NAMESPACE)
            states = [each.get("status", {}).get("state") for each in found]
            if states.count("Ready") == many:
                return
            await asyncio.sleep(1)


async def _stay_quiet(installation: Installation, api: KubeApi, seconds: float) -> dict[str, Any]:
    """What is written, and what each program uses, while nothing happens."""
    before, cpu_s, began_s = await _versions(api), installation.cpu_s(), time.monotonic()
    await asyncio.sleep(seconds)
    used, took_s = installation.cpu_s(), time.monotonic() - began_s
    after = await _versions(api)
    return {
        "quiet_s": round(took_s, 1),
        "writes": sum(after.get(key) != version for key, version in before.items()),
        "objects": len(before),
        "cores": {name: round((used[name] - cpu_s[name]) / took_s, 3) for name in used},
        "peak_rss_mb": {name: round(installation.peak_rss_mb(name), 1) for name in _OURS},
    }


async def _versions(api: KubeApi) -> dict[tuple[str, str], str]:
    """Of each Workspace and of all that was made for one: which version it is."""
    found = {}
    for kind in _KEPT:
        labels = None if kind == "Workspace" else MANAGED_BY
        for each in await api.find(kind, NAMESPACE, labels=labels):
            found[kind, each["metadata"]["name"]] = each["metadata"]["resourceVersion"]
    return found


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """How long after it another object was there, and InferenceReady was no longer True."""

    back_s: float
    told_s: float


async def _delete(api: KubeApi, kind: str, number: int) -> Deletion:
    """Delete an object of a Workspace, and see both."""
    name = f"kept-{number}"
    old = await api.get(kind, NAMESPACE, name)
    assert old, f"{kind} {name} is not there"
    began_s = time.monotonic()
    await api.delete(kind, NAMESPACE, name)
    back_s, told_s = await asyncio.gather(
        _seconds_until(began_s, lambda: _is_another(api, kind, name, old["metadata"]["uid"])),
        _seconds_until(began_s, lambda: _tells(api, name)),
    )
    return Deletion(back_s=back_s, told_s=told_s)


async def _seconds_until(began_s: float, is_so: Callable[[], Awaitable[bool]]) -> float:
    """Since `began_s`; at most so long as is waited for it at all."""
    while not await is_so():
        if time.monotonic() - began_s > _BACK_WITHIN_S:
            break
        await asyncio.sleep(_LOOK_S)
    return time.monotonic() - began_s


async def _is_another(api: KubeApi, kind: str, name: str, uid: str) -> bool:
    found = await api.get(kind, NAMESPACE, name)
    return found is not None and found["metadata"]["uid"] != uid


async def _tells(api: KubeApi, name: str) -> bool:
    return not status_of(await api.get("Workspace", NAMESPACE, name)).is_true(
        ConditionType.INFERENCE_READY
    )


def out_of_bounds(measured: Mapping[str, Any]) -> list[str]:
    """Which figures are not as they have to be, each with its bound."""
    found = [
        f"{kind} deleted: {told} after {seconds['most']} s, to be within {_BOUND_S:.0f} s"
        for told, figures in (("back", measured["back_s"]), ("told", measured["told_s"]))
        for kind, seconds in figures.items()
        if seconds["most"] > _BOUND_S
    ]
    if measured["writes"]:
        found.append(f"{measured['writes']} writes while nothing happened, to be none")
    most = _CORES * measured["workspaces"] / _OF_WORKSPACES
    if (cores := measured["cores"]["watcher"]) >= most:
        found.append(f"the watcher took {cores} cores, to be less than {most:.3f}")
    return found


def _report(measured: Mapping[str, Any]) -> None:
    cores = measured["cores"]
    rows = [
        (f"{measured['workspaces']} applied at once: all Ready s", f"{measured['all_ready_s']}"),
        (f"writes in {measured['quiet_s']:.0f} s", f"{measured['writes']}"),
        ("watcher: cores", f"{cores['watcher']:.3f}"),
        ("worker: cores", f"{cores['worker']:.3f}"),
        ("Prefect's server: cores", f"{cores['prefect']:.3f}"),
    ]
    for kind, back in measured["back_s"].items():
        told = f"{back['p50']} (at most {back['most']})"
        rows.append((f"{kind} deleted: back after s", told))
    for kind, told in measured["told_s"].items():
        rows.append((f"{kind} deleted: told after s", f"{told['p50']} (at most {told['most']})"))
    sys.stdout.write("".join(f"{what:<40} {figure}\n" for what, figure in rows))
    file = ROOT / "build" / "bench" / "settled.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(measured, indent=2))


if __name__ == "__main__":
    sys.exit(main())
