"""What it costs to keep Workspaces true once they are, and how soon what was deleted is back.

Run as `python tests/bench/bench_settled.py [--many 200] [--harmed 20] [--quiet-s 60]
[--logs FOLDER]`. Everything is real and runs as the chart runs it; one node plays its kubelet, and
its pods do their work at once. All Workspaces are tuned and served first. Then nothing is done for
a while, in which nothing may be written; then of some of them, one at a time, the Service or the
StatefulSet is deleted. Prints the figures and writes build/bench/settled.json.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is started by its path

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


def main() -> None:
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
        back_s = dict[str, list[float]]()
        for at, kind in enumerate(_DELETED):
            # Of each Workspace one thing: what is repaired again at once waits ever longer.
            numbers = range(at * harmed, (at + 1) * harmed)
            back_s[kind] = [await _delete(api, kind, number) for number in numbers]
        await _wait_until_ready(api, many)
    return {
        "workspaces": many,
        "all_ready_s": round(ready_s, 1),
        **quiet,
        "back_s": {
            kind: {
                "samples": len(each),
                "p50": round(statistics.median(each), 2),
                "most": round(max(each), 2),
            }
            for kind, each in back_s.items()
        },
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


async def _delete(api: KubeApi, kind: str, number: int) -> float:
    """Seconds until another one is there in the place of what is deleted."""
    name = f"kept-{number}"
    old = await api.get(kind, NAMESPACE, name)
    assert old, f"{kind} {name} is not there"
    began_s = time.monotonic()
    await api.delete(kind, NAMESPACE, name)
    async with asyncio.timeout(_BACK_WITHIN_S):
        while True:
            new = await api.get(kind, NAMESPACE, name)
            if new and new["metadata"]["uid"] != old["metadata"]["uid"]:
                return time.monotonic() - began_s
            await asyncio.sleep(_LOOK_S)


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
    sys.stdout.write("".join(f"{what:<40} {figure}\n" for what, figure in rows))
    file = ROOT / "build" / "bench" / "settled.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
