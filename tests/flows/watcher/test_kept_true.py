"""What is deleted, changed or lost of a Workspace is there again, whatever its run is doing.

One installation for all: each cell of the table has a Workspace of its own, all are harmed at once.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psutil
import pytest
import yaml
from kubernetes.aio import client, config

from tasks.contract.workspace import ObjectMeta
from tasks.platform.kube_api import KubeApi
from tests.cluster.control_plane import ControlPlane
from tests.flows.prefect import ask
from tests.flows.watcher.clouds import claiming_installation
from tests.flows.watcher.conftest import new_namespace
from tests.flows.watcher.installation import Installation, wait_until, workspace_manifest
from tests.flows.watcher.losses import (
    CELLS,
    PHASES,
    WRONG_CONFIG_MAP,
    Cluster,
    Hands,
    Look,
    Machines,
    is_settled,
    look,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.waits, pytest.mark.timeout(1200)]

Cell = tuple[str, str]
TABLE: list[Cell] = [(phase, loss) for phase, losses in CELLS.items() for loss in losses]
# Until all are in their phase; until all are whole again, nodes included that are claimed anew.
_THERE_WITHIN_S, _BACK_WITHIN_S = 360.0, 240.0
_QUIET_S = 10.0


@dataclass
class Harmed:
    """How the table went."""

    back_s: dict[Cell, float] = field(default_factory=dict)
    """Until what was lost was there again in the same phase."""
    settled: set[Cell] = field(default_factory=set)
    """Those that were served as asked in the end."""
    left: dict[Cell, str] = field(default_factory=dict)
    """What the others say of themselves."""
    trained: dict[str, int] = field(default_factory=dict)
    """How often a container trained, by phase."""
    restless: list[str] = field(default_factory=list)
    """The Workspaces that were written to once all was done."""
    watcher_cores: float = 0.0
    """What the watcher took of a core meanwhile."""


class Table:
    """The Workspaces of all cells, in a namespace for each phase."""

    def __init__(self, installed: Installation, api: KubeApi, machines: Machines) -> None:
        self._installed, self._api, self._machines = installed, api, machines
        self.spaces = {phase: new_namespace(installed) for phase in CELLS}
        self._held = {
            (self.spaces["tuning"], "tune"),
            (self.spaces["loading"], "serve"),
        }

    def meta(self, cluster: Cluster, cell: Cell) -> ObjectMeta:
        phase, loss = cell
        found = cluster.get("Workspace", self.spaces[phase], loss)
        return ObjectMeta.model_validate(found["metadata"])

    async def run(self) -> Harmed:
        """Apply all, do each harm in its phase, and see how they come back."""
        self._installed.node.held |= self._held
        await asyncio.to_thread(self._wait_for_worker)
        await asyncio.to_thread(self._apply)
        await self._wait_for_phases()
        harmed = Harmed()
        cluster = await look(self._api)
        began_s = {cell: time.monotonic() for cell in TABLE}
        await asyncio.gather(*(self._harm(cluster, cell, began_s) for cell in TABLE))
        back = {cell: PHASES[cell[0]][1] for cell in TABLE}
        async for cell in self._as_they_come(back, within_s=_BACK_WITHIN_S):
            harmed.back_s[cell] = time.monotonic() - began_s[cell]
        self._installed.node.held -= self._held
        settled = dict.fromkeys(TABLE, is_settled)
        async for cell in self._as_they_come(settled, within_s=_BACK_WITHIN_S):
            harmed.settled.add(cell)
        last = await look(self._api)
        harmed.left = await self._told([cell for cell in TABLE if cell not in harmed.settled])
        for phase, space in self.spaces.items():
            harmed.trained[phase] = self._installed.node.started[space, "tune"]
        before_s = self._watcher_s()
        await asyncio.sleep(_QUIET_S)
        harmed.watcher_cores = (self._watcher_s() - before_s) / _QUIET_S
        harmed.restless = await self._written_since(last)
        return harmed

    def _wait_for_worker(self) -> None:
        """Return when it has told Prefect which flows it runs."""
        route = f"{self._installed.prefect_api}/deployments/name/run-workspace/kaitoflow"
        wait_until(lambda: ask("GET", route).is_success, "the worker's deployments")

    def _apply(self) -> None:
        wrong = "--from-literal=training_config.yaml=training_config: {LoraConfig: {wrong: 1}}"
        here = f"--namespace={self.spaces['refused']}"
        self._installed.kubectl("create", "configmap", WRONG_CONFIG_MAP, wrong, here)
        manifests = []
        for phase, losses in CELLS.items():
            for loss, what in losses.items():
                manifest = workspace_manifest(self.spaces[phase], loss)
                label = f"{phase}-{loss}" if what.is_claimed else "tuning"
                manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": label}}
                image = f"registry.example.com/{phase}/{loss}:1"
                manifest["tuning"]["output"] = {"image": image, "imagePushSecret": what.secret}
                if what.config:
                    manifest["tuning"]["config"] = what.config
                manifests.append(manifest)
        self._installed.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(manifests))

    async def _harm(self, cluster: Cluster, cell: Cell, began_s: dict[Cell, float]) -> None:
        phase, loss = cell
        hands = Hands(self._installed, self._api, self._machines, cluster, self.meta(cluster, cell))
        await CELLS[phase][loss].act(hands)
        began_s[cell] = time.monotonic()

    async def _wait_for_phases(self) -> None:
        missing = set(TABLE)
        looks = {cell: PHASES[cell[0]][0] for cell in TABLE}
        async for cell in self._as_they_come(looks, within_s=_THERE_WITHIN_S):
            missing.discard(cell)
        assert not missing, f"not in their phase: {await self._told(sorted(missing))}"

    async def _as_they_come(
        self, looks: Mapping[Cell, Look], *, within_s: float
    ) -> AsyncGenerator[Cell]:
        """Each cell, once its Workspace looks as wanted."""
        missing, deadline = set(looks), time.monotonic() + within_s
        while missing and time.monotonic() < deadline:
            cluster = await look(self._api)
            for cell in sorted(missing):
                if looks[cell](cluster, self.meta(cluster, cell)):
                    missing.discard(cell)
                    yield cell
            self._installed.revive()
            await asyncio.sleep(0.5)

    async def _told(self, cells: Sequence[Cell]) -> dict[Cell, str]:
        """What Workspaces say of themselves."""
        seen = await look(self._api)
        return {cell: str(seen.get("Workspace", self.spaces[cell[0]], cell[1])) for cell in cells}

    def _watcher_s(self) -> float:
        used = psutil.Process(self._installed.programs["watcher"].pid).cpu_times()
        return used.user + used.system

    async def _written_since(self, before: Cluster) -> list[str]:
        now = await look(self._api)
        return [
            each["metadata"]["name"]
            for each in now.all("Workspace")
            if each["metadata"]["resourceVersion"]
            != before.get("Workspace", each["metadata"]["namespace"], each["metadata"]["name"])[
                "metadata"
            ]["resourceVersion"]
        ]


@pytest.fixture(scope="module")
def harmed(
    control_plane: ControlPlane,  # builds the programs, or skips
    crowded_prefect: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Harmed]:
    folder = tmp_path_factory.mktemp("kept-true")
    with claiming_installation(folder, crowded_prefect, provisioner="karpenter") as made:
        made.start_worker()
        made.start("watcher")
        found = asyncio.run(_run(made))
        lines = (f"{' '.join(cell):<32} {seconds:6.1f} s" for cell, seconds in found.back_s.items())
        left = (f"{' '.join(cell)} is left as {status}" for cell, status in found.left.items())
        cores = f"{len(TABLE)} settled cost the watcher {found.watcher_cores:.3f} cores"
        sys.stdout.write("\n".join(["back after", *lines, cores, *left, ""]))
        yield found


async def _run(installed: Installation) -> Harmed:
    settings = client.Configuration()
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        str(installed.control_plane.kubeconfig), client_configuration=settings
    )
    api, machines = KubeApi(client.ApiClient(settings)), Machines(installed)
    work = asyncio.create_task(machines.work())
    try:
        return await Table(installed, api, machines).run()
    finally:
        machines.end()
        await work
        await api.close()


@pytest.mark.parametrize("cell", TABLE, ids=" ".join)
def test_what_was_lost_is_there_again(harmed: Harmed, cell: Cell) -> None:
    assert cell in harmed.back_s
    assert cell in harmed.settled, harmed.left.get(cell)


def test_nothing_is_trained_again_that_was_tuned(harmed: Harmed) -> None:
    for phase in ("loading", "settled"):
        assert harmed.trained[phase] == len(CELLS[phase])


def test_what_stands_is_not_written_to(harmed: Harmed) -> None:
    assert harmed.restless == []
