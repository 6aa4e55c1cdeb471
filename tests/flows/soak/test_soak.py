"""A soak: Workspaces to which something happens every few seconds end up as they are asked to be.

Real are the control plane, Prefect's server, Azure's client, watcher and worker; nodes play their
kubelets, Azure is a server that answers as it. Five minutes of it are one of the slow tests; `make
soak` runs it for longer, with more Workspaces, and with another seed each time (SOAK_* below).
"""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from kubernetes.aio import client, config

from tasks.platform.kube_api import KubeApi
from tests.flows.soak.hands import NAME, Hands, Strangers
from tests.flows.soak.subjects import Act, Subject, after, differences, drawn, healed
from tests.flows.watcher.azure import Azure, azure_before
from tests.flows.watcher.clouds import claiming_installation
from tests.flows.watcher.installation import Installation

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.waits, pytest.mark.timeout(7200)]

_FIRST_READY_S, _CONVERGED_S, _LOOK_AGAIN_S = 900.0, 600.0, 5.0
_PROGRAMS = ("watcher", "worker")
# Of the second half over the first: Python's allocator and Prefect's caches take a while.
_GROWTH = 1.25


@dataclass(frozen=True, kw_only=True)
class Soak:
    """How long, how much and by which chance. kills: how many times a program is killed."""

    workspaces: int = int(os.environ.get("SOAK_WORKSPACES", "8"))
    minutes: float = float(os.environ.get("SOAK_MINUTES", "5"))
    every_s: float = float(os.environ.get("SOAK_EVERY_S", "5"))
    kills: int = int(os.environ.get("SOAK_KILLS", "2"))
    seed: int = int(os.environ.get("SOAK_SEED", "11"))

    @property
    def acts(self) -> int:
        """How many acts there are in all."""
        return round(60 * self.minutes / self.every_s)


@pytest.fixture
def claiming(
    control_plane: object,  # builds the programs, or skips
    crowded_prefect: str,
    tmp_path: Path,
) -> Iterator[tuple[Installation, Azure]]:
    """Kaitoflow with agent pools, and the Azure that it asks."""
    with (
        claiming_installation(tmp_path, crowded_prefect, provisioner="aks") as made,
        azure_before(made) as azure,
    ):
        # A machine that is lost before it has joined is given up within what converging may take.
        ours = {"KAITOFLOW_MAX_NODES": "500", "KAITOFLOW_RESYNC_S": "10"}
        made.settings |= azure.settings | ours | {"KAITOFLOW_REGISTER_TIMEOUT_S": "300"}
        made.start_worker()
        made.start("watcher")
        yield made, azure
        made.stop()


def test_whatever_happens_to_workspaces_they_end_as_they_are_asked_to_be(
    claiming: tuple[Installation, Azure],
) -> None:
    installed, azure = claiming
    soak = Soak()
    tell(f"{soak}, {soak.acts} acts")  # the seed is what a failure is repeated by
    wrong = asyncio.run(_soaked(soak, installed, azure))
    assert wrong == [], f"seed {soak.seed}: " + "; ".join(wrong)


async def _soaked(soak: Soak, installed: Installation, azure: Azure) -> list[str]:
    """What is not as it is asked to be, after all."""
    chance = random.Random(soak.seed)
    subjects = [Subject(namespace=f"soak-{number}") for number in range(soak.workspaces)]
    for subject in subjects:
        installed.kubectl("create", "namespace", subject.namespace)
    async with _connected(installed) as api:
        hands = Hands(api, azure, chance)
        strangers = Strangers(api, [subject.namespace for subject in subjects])
        await strangers.come()
        await asyncio.gather(*(hands.prepare(subject) for subject in subjects))
        wrong = await _converged(installed, hands, subjects, within_s=_FIRST_READY_S)
        if wrong:
            return [f"before the first act: {each}" for each in wrong]
        memory = await _acted(soak, chance, installed, hands, subjects)
        wrong = await _converged(installed, hands, subjects, within_s=_CONVERGED_S)
        whole = [healed(subject) for subject in subjects]
        for before, subject in zip(subjects, whole, strict=True):
            await hands.heal(before, subject)
        wrong += await _converged(installed, hands, whole, within_s=_CONVERGED_S)
        wrong += [f"changed, and not ours: {each}" for each in await strangers.changed()]
        wrong += [*_grown(memory), *(f"leak: {each}" for each in installed.leaks())]
        wrong += await _removed(installed, hands, api, whole)
    return wrong


@asynccontextmanager
async def _connected(installed: Installation) -> AsyncIterator[KubeApi]:
    settings = client.Configuration()
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        str(installed.control_plane.kubeconfig), client_configuration=settings
    )
    api = KubeApi(client.ApiClient(settings))
    try:
        yield api
    finally:
        await api.close()


async def _acted(
    soak: Soak,
    chance: random.Random,
    installed: Installation,
    hands: Hands,
    subjects: list[Subject],
) -> list[dict[str, int]]:
    """Let it all happen; what the programs had resident after each act, in bytes."""
    memory, done = [], Counter[Act]()
    began_s = time.monotonic()
    kills = sorted(chance.sample(range(soak.acts), min(soak.kills, soak.acts)))
    for number in range(soak.acts):
        await asyncio.sleep(max(0.0, began_s + number * soak.every_s - time.monotonic()))
        installed.revive()
        if number in kills:
            await asyncio.sleep(chance.random())
            name = chance.choice(_PROGRAMS)
            await asyncio.to_thread(installed.crash, name)
            tell(f"killed {name}")
        index, act = drawn(chance, subjects)
        before = subjects[index]
        is_settled = not before.is_disturbed and not differences(before, await hands.look(before))
        subjects[index] = after(before, act, is_settled=is_settled)
        said = await hands.do(act, subjects[index])
        done[act] += 1
        tell(f"{time.monotonic() - began_s:6.0f} s {before.namespace}: {said}")
        memory.append(_resident(installed))
    tell(f"{dict(done)} {len(kills)} kills")
    return memory


def tell(text: str) -> None:
    """Say it at once to who watches."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _converged(
    installed: Installation, hands: Hands, subjects: Sequence[Subject], *, within_s: float
) -> list[str]:
    """What is still not as it is asked to be, after so long; prints how long it took."""
    began_s = time.monotonic()
    while True:
        installed.revive()
        seen = await asyncio.gather(*(hands.look(subject) for subject in subjects))
        wrong = [
            f"{subject.namespace}: {each}"
            for subject, each_seen in zip(subjects, seen, strict=True)
            for each in differences(subject, each_seen)
            if subject.has_secret or not subject.exists
        ]
        waited_s = time.monotonic() - began_s
        if not wrong or waited_s > within_s:
            tell("\n  ".join([f"{len(wrong)} differences after {waited_s:.0f} s", *wrong]))
            for each in seen if wrong else ():
                tell(f"{json.dumps(each.workspace)} {each.objects}")
            return wrong
        await asyncio.sleep(_LOOK_AGAIN_S)


def _resident(installed: Installation) -> dict[str, int]:
    found = {}
    for name in _PROGRAMS:
        if pid := installed.programs[name].pid:
            found[name] = psutil.Process(pid).memory_info().rss
    return found


def _grown(memory: Sequence[dict[str, int]]) -> list[str]:
    """The programs that need more and more; none of which that was killed meanwhile is known."""
    half = len(memory) // 2
    found = []
    for name in _PROGRAMS:
        first, second = (
            [each[name] for each in part if name in each]
            for part in (memory[half // 2 : half], memory[half + half // 2 :])
        )
        if not first or not second:
            continue
        # One that was killed is small while it starts, which takes long where the cores are busy.
        before, now = max(first) / 2**20, max(second) / 2**20
        tell(f"{name}: {before:.0f} MiB, later {now:.0f} MiB")
        if now > before * _GROWTH:
            found.append(f"{name} grew from {before:.0f} to {now:.0f} MiB")
    return found


async def _removed(
    installed: Installation, hands: Hands, api: KubeApi, subjects: Sequence[Subject]
) -> list[str]:
    """What is left when all Workspaces were deleted."""
    for subject in subjects:
        await api.delete("Workspace", subject.namespace, NAME)
    gone = [after(subject, Act.DELETE, is_settled=True) for subject in subjects]
    wrong = await _converged(installed, hands, gone, within_s=_CONVERGED_S)
    return wrong + [f"leak after all: {each}" for each in installed.leaks()]
