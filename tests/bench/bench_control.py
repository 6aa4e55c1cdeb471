"""The control side: how soon an applied Workspace is at work, one at a time and many at once.

Run as `python tests/bench/bench_control.py [--one 40] [--many 200] [--logs FOLDER]`. Control plane,
PostgreSQL, Prefect's server, watcher and worker are real and run as the chart runs them; the node
plays its kubelet, and the first container of each pod goes on for ever, so that every run waits
for it. Beside our figures stand those of KAITO 0.12, measured once on a machine like this one
(2 cores) with the same API server. Prints both and writes build/bench/control.json.
"""

import argparse
import asyncio
import json
import math
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is started by its path

from tasks.platform.kube_api import KubeApi  # noqa: E402
from tests.bench.installation import Installation, running_installation  # noqa: E402
from tests.bench.made import Made, watched  # noqa: E402
from tests.bench.workspaces import NAMESPACE, apply, connected, folder_of_logs  # noqa: E402
from tests.cluster.simulated_node import Script  # noqa: E402
from tests.nodes.arm import CLUSTER, GROUP, SUBSCRIPTION, Arm, arm_in_a_thread  # noqa: E402

MADE_LABELS = {"apps": "made"}  # of no node that is there
# What stands where KAITO's controller does; Prefect's server and its database are told apart.
OURS = ("watcher", "worker")
KAITO_ONE_S, KAITO_MANY_S, KAITO_RSS_MB, KAITO_CPU_S = "0.12 to 0.24", "27.4", "71", "3"
_ONE_WITHIN_S, _ALL_WITHIN_S, _GONE_WITHIN_S = 60.0, 240.0, 120.0
# Between two Workspaces; and after the last, until the server has written down when steps began.
_PAUSE_S, _SETTLED_S, _WAITING_S = 0.5, 5.0, 10.0
_PAGE = 200


def main() -> None:
    """Measure, print, write."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops all that it has started
    with folder_of_logs(options.logs) as folder:
        with running_installation(folder / "jobs") as installation:
            measured = asyncio.run(_measure(installation, one=options.one, many=options.many))
        _write(measured)
        measured["claims"] = _claims(folder / "claims", one=options.one // 2, many=options.many)
        measured["yardstick_s"] = round(_yardstick_s(), 2)
    _report(measured, many=options.many)


def _claims(folder: Path, *, one: int, many: int) -> dict[str, Any]:
    values = _on_aks(many)
    with (
        arm_in_a_thread() as arm,
        running_installation(folder, values=values, arm_url=arm.url) as installation,
    ):
        return asyncio.run(_measure_claims(installation, arm, one=one, many=many))


def _on_aks(nodes: int) -> dict[str, Any]:
    """The chart's values for agent pools of the cluster that the ARM server has."""
    azure = {"subscriptionId": SUBSCRIPTION, "resourceGroup": GROUP, "cluster": CLUSTER}
    return {"nodes": {"provisioner": "aks", "max": nodes + 50, "azure": azure}}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--one", type=int, default=40, help="Workspaces, one at a time")
    parser.add_argument("--many", type=int, default=200, help="Workspaces at once")
    parser.add_argument("--logs", type=Path, help="an empty folder for all logs; else they go")
    return parser.parse_args()


def _yardstick_s() -> float:
    """How long this machine takes for the same small work, now: figures vary with it."""
    began_s = time.perf_counter()
    sum(number & 7 for number in range(10_000_000))
    return time.perf_counter() - began_s


async def _measure(installation: Installation, *, one: int, many: int) -> dict[str, Any]:
    said = {"event": "progress", "phase": "1 of 100 files"}
    installation.node.scripts["fetch-weights"] = Script((said,), seconds=3600)
    async with connected(installation) as api, watched(api, "Job") as jobs:
        await _one_at_a_time(installation, api, jobs, names=["warm-up"])
        names = [f"one-{number}" for number in range(one)]
        measured = {"one": await _one_at_a_time(installation, api, jobs, names=names)}
        await _remove_all(api)
        measured["two_hundred"] = await _at_once(installation, api, jobs, number=many)
    return measured


async def _measure_claims(
    installation: Installation, arm: Arm, *, one: int, many: int
) -> dict[str, Any]:
    """From an applied Workspace to its NodeClaim, and what Azure is asked for each node."""
    async with connected(installation) as api, watched(api, "NodeClaim") as claims:
        one_s = []
        for number in range(one):
            asked_s = time.time()
            uid = await apply(api, f"one-{number}", MADE_LABELS)
            await claims.wait_for([uid], within_s=_ONE_WITHIN_S)
            one_s.append(claims.seen_s[uid] - asked_s)
            await asyncio.sleep(_PAUSE_S)
        await _remove_all(api)
        arm.puts.clear()
        arm.calls.clear()
        began_s = time.time()
        uids = await asyncio.gather(*(apply(api, f"many-{n}", MADE_LABELS) for n in range(many)))
        await claims.wait_for(uids, within_s=_ALL_WITHIN_S)
        async with asyncio.timeout(_ALL_WITHIN_S):
            while len(arm.puts) < many:
                await asyncio.sleep(_PAUSE_S)
        pools_s = time.time() - began_s
    return {
        "one_claim_p50_s": round(statistics.median(one_s), 3),
        "one_claim_p99_s": round(_percentile(one_s, 0.99), 3),
        "all_claims_s": round(max(claims.seen_s[uid] for uid in uids) - began_s, 2),
        "all_pools_asked_for_s": round(pools_s, 2),
        "duplicates": sum(len(claims.names[uid]) - 1 for uid in uids) + len(arm.puts) - many,
        "arm_calls_per_node": round(arm.calls.total() / many, 2),
        "arm_calls": dict(arm.calls),
    }


async def _one_at_a_time(
    installation: Installation, api: KubeApi, jobs: Made, *, names: Sequence[str]
) -> dict[str, Any]:
    """From asking the API server for a Workspace to the run's first step, and to its Job."""
    applied_s: dict[str, float] = {}
    for name in names:
        asked_s = time.time()
        uid = await apply(api, name)
        applied_s[uid] = asked_s
        await jobs.wait_for([uid], within_s=_ONE_WITHIN_S)
        await asyncio.sleep(_PAUSE_S)
    await asyncio.sleep(_SETTLED_S)
    began_s = _first_steps(installation.prefect_url)
    first = [began_s[uid] - asked_s for uid, asked_s in applied_s.items()]
    job = [jobs.seen_s[uid] - asked_s for uid, asked_s in applied_s.items()]
    return {
        "samples": len(names),
        "first_step_p50_s": round(statistics.median(first), 3),
        "first_step_p99_s": round(_percentile(first, 0.99), 3),
        "job_p50_s": round(statistics.median(job), 3),
        "job_p99_s": round(_percentile(job, 0.99), 3),
    }


async def _at_once(
    installation: Installation, api: KubeApi, jobs: Made, *, number: int
) -> dict[str, Any]:
    """From the first request of many to the last Job; then how much it costs that all wait."""
    cpu_before, began_s = installation.cpu_s(), time.time()
    uids = await asyncio.gather(*(apply(api, f"many-{n}") for n in range(number)))
    applied_s = time.time() - began_s
    await jobs.wait_for(uids, within_s=_ALL_WITHIN_S)
    cpu = _difference(installation.cpu_s(), cpu_before)
    await asyncio.sleep(_SETTLED_S)
    waiting_before, waits_s = installation.cpu_s(), time.time()
    await asyncio.sleep(_WAITING_S)
    waiting = _difference(installation.cpu_s(), waiting_before)
    waits_s = time.time() - waits_s
    jobs_s = sorted(jobs.seen_s[uid] - began_s for uid in uids)
    rss_mb = {name: round(installation.peak_rss_mb(name), 1) for name in OURS}
    runs = _runs_by_workspace(installation.prefect_url)
    return {
        "workspaces": number,
        "applied_s": round(applied_s, 2),
        "first_job_s": round(jobs_s[0], 2),
        "half_jobs_s": round(statistics.median(jobs_s), 2),
        "all_jobs_s": round(jobs_s[-1], 2),
        "duplicates": sum(len(jobs.names[uid]) + runs[uid] - 2 for uid in uids),
        "rss_mb": round(sum(rss_mb.values()), 1),
        "cpu_s": round(sum(cpu[name] for name in OURS), 1),
        "rss_mb_by_process": rss_mb,
        "cpu_s_by_process": {name: round(used, 1) for name, used in cpu.items()},
        "cores_while_all_wait": {name: round(each / waits_s, 3) for name, each in waiting.items()},
    }


def _difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}


def _percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many are not above."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


async def _remove_all(api: KubeApi) -> None:
    for workspace in await api.find("Workspace", NAMESPACE):
        await api.delete("Workspace", NAMESPACE, workspace["metadata"]["name"])
    async with asyncio.timeout(_GONE_WITHIN_S):
        while await api.find("Workspace", NAMESPACE):
            await asyncio.sleep(_PAUSE_S)


def _first_steps(prefect_url: str) -> dict[str, float]:
    """When each Workspace's step `plan` began, by its uid, as Prefect has it."""
    workspace_of = {run["id"]: _workspace_of(run) for run in _runs(prefect_url)}
    steps = _pages(f"{prefect_url}/task_runs/filter", {"task_runs": {"name": {"like_": "plan "}}})
    return {
        workspace_of[step["flow_run_id"]]: datetime.fromisoformat(step["start_time"]).timestamp()
        for step in steps
        if step["flow_run_id"] in workspace_of
    }


def _runs_by_workspace(prefect_url: str) -> Counter[str]:
    return Counter(_workspace_of(run) for run in _runs(prefect_url))


def _runs(prefect_url: str) -> list[dict[str, Any]]:
    body = {"flow_runs": {"tags": {"all_": ["run-workspace"]}}}
    return list(_pages(f"{prefect_url}/flow_runs/filter", body))


def _workspace_of(run: Mapping[str, Any]) -> str:
    tag = next(tag for tag in run["tags"] if tag.startswith("workspace-uid:"))
    return str(tag.removeprefix("workspace-uid:"))


def _pages(url: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    with httpx2.Client(trust_env=False, timeout=60) as prefect:
        for offset in range(0, 100 * _PAGE, _PAGE):
            asked = {**body, "sort": "ID_DESC", "limit": _PAGE, "offset": offset}
            answer = prefect.post(url, json=asked)
            answer.raise_for_status()
            yield from (page := answer.json())
            if len(page) < _PAGE:
                return


def _report(measured: Mapping[str, Any], *, many: int) -> None:
    one, all_, claims = measured["one"], measured["two_hundred"], measured["claims"]
    rows = [
        ("", "kaitoflow", "KAITO 0.12"),
        ("one: first step p50 s", f"{one['first_step_p50_s']:.2f}", "-"),
        ("one: first step p99 s", f"{one['first_step_p99_s']:.2f}", "-"),
        ("one: Job p50 s", f"{one['job_p50_s']:.2f}", "-"),
        ("one: NodeClaim p50 s", f"{claims['one_claim_p50_s']:.2f}", KAITO_ONE_S),
        (f"{many}: all Jobs s", f"{all_['all_jobs_s']:.1f}", "-"),
        (f"{many}: all NodeClaims s", f"{claims['all_claims_s']:.1f}", KAITO_MANY_S),
        ("Azure's calls per node", f"{claims['arm_calls_per_node']:.1f}", "-"),
        (f"{many}: duplicates", str(all_["duplicates"] + claims["duplicates"]), "0"),
        ("watcher + worker: peak RSS MB", f"{all_['rss_mb']:.0f}", KAITO_RSS_MB),
        ("watcher + worker: CPU s", f"{all_['cpu_s']:.1f}", KAITO_CPU_S),
    ]
    lines = [f"{what:<34} {ours:>10} {peer:>14}" for what, ours, peer in rows]
    for title, key in (("CPU s until then", "cpu_s_by_process"), ("cores", "cores_while_all_wait")):
        told = ", ".join(f"{name} {used}" for name, used in all_[key].items())
        lines.append(f"{title}: {told}")
    lines.append(f"10 million steps of Python on this machine: {measured['yardstick_s']} s")
    sys.stdout.write("\n".join(lines) + "\n")
    _write(measured)


def _write(measured: Mapping[str, Any]) -> None:
    file = ROOT / "build" / "bench" / "control.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
