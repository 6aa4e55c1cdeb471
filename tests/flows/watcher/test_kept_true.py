"""What is deleted, changed or lost of a Workspace is there again, whatever its run is doing.

One installation for each provisioner: each cell of its table has a Workspace of its own, and all
are harmed at once.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

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
    PHASES,
    WRONG_CONFIG_MAP,
    Cluster,
    Hands,
    Look,
    cells_for,
    is_settled,
    look,
)
from tests.flows.watcher.machines import Machines, machines_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.waits, pytest.mark.timeout(1200)]

Cell = tuple[str, str]
PROVISIONERS = ("aks", "byo", "karpenter")
TABLES: dict[str, list[Cell]] = {
    provisioner: [
        (phase, loss) for phase, losses in cells_for(provisioner).items() for loss in losses
    ]
    for provisioner in PROVISIONERS
}
# Until all are in their phase; until all are whole again, nodes included that are claimed anew.
_THERE_WITHIN_S, _BACK_WITHIN_S = 360.0, 240.0
_QUIET_S = 10.0


@dataclass
class Harmed:
    """How the table of a provisioner went."""

    provisioner: str
    back_s: dict[Cell, float] = field(default_factory=dict)
    """Until what was lost was there again in the same phase."""
    settled: set[Cell] = field(default_factory=set)
    """Those that were served as asked in the end."""
    left: dict[Cell, str] = field(default_factory=dict)
    """What the others say of themselves."""
    trained: dict[str, list[str]] = field(default_factory=dict)
    """The pods that trained before anything was harmed, by phase."""
    trained_again: dict[str, list[str]] = field(default_factory=dict)
    """Those that trained after it."""
    restless: list[str] | None = None
    """The Workspaces that were written to once all was done; None = it never was."""
    watcher_cores: float = 0.0
    """What the watcher took of a core meanwhile."""


class Table:
    """The Workspaces of all cells, in a namespace for each phase."""

    def __init__(
        self, provisioner: str, installed: Installation, api: KubeApi, machines: Machines
    ) -> None:
        self._installed, self._api, self._machines = installed, api, machines
        self._provisioner, self._cells = provisioner, cells_for(provisioner)
        self._table = TABLES[provisioner]
        self.spaces = {phase: new_namespace(installed) for phase in self._cells}
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
        harmed = Harmed(self._provisioner)
        if missing := await self._not_in_their_phase():
            harmed.left = await self._told(missing)
            return harmed
        harmed.trained = self._trained()
        cluster = await look(self._api)
        began_s = {cell: time.monotonic() for cell in self._table}
        await asyncio.gather(*(self._harm(cluster, cell, began_s) for cell in self._table))
        back = {cell: PHASES[cell[0]][1] for cell in self._table}
        async for cell in self._as_they_come(back, within_s=_BACK_WITHIN_S):
            harmed.back_s[cell] = time.monotonic() - began_s[cell]
        self._installed.node.held -= self._held
        settled = dict.fromkeys(self._table, is_settled)
        async for cell in self._as_they_come(settled, within_s=_BACK_WITHIN_S):
            harmed.settled.add(cell)
        last = await look(self._api)
        harmed.left = await self._told([cell for cell in self._table if cell not in harmed.settled])
        harmed.trained_again = {
            phase: pods[len(harmed.trained[phase]) :] for phase, pods in self._trained().items()
        }
        before_s = self._watcher_s()
        await asyncio.sleep(_QUIET_S)
        harmed.watcher_cores = (self._watcher_s() - before_s) / _QUIET_S
        harmed.restless = await self._written_since(last)
        return harmed

    def _trained(self) -> dict[str, list[str]]:
        pods = self._installed.node.pods
        return {phase: [*pods[space, "tune"]] for phase, space in self.spaces.items()}

    def _wait_for_worker(self) -> None:
        """Return when it has told Prefect which flows it runs."""
        route = f"{self._installed.prefect_api}/deployments/name/run-workspace/kaitoflow"
        wait_until(lambda: ask("GET", route).is_success, "the worker's deployments")

    def _apply(self) -> None:
        wrong = "--from-literal=training_config.yaml=training_config: {LoraConfig: {wrong: 1}}"
        here = f"--namespace={self.spaces['refused']}"
        self._installed.kubectl("create", "configmap", WRONG_CONFIG_MAP, wrong, here)
        manifests = []
        for phase, losses in self._cells.items():
            for loss, what in losses.items():
                manifest = workspace_manifest(self.spaces[phase], loss)
                label = label_of((phase, loss)) if what.has_own_node else "tuning"
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
        await self._cells[phase][loss].act(hands)
        began_s[cell] = time.monotonic()

    async def _not_in_their_phase(self) -> list[Cell]:
        missing = set(self._table)
        looks = {cell: PHASES[cell[0]][0] for cell in self._table}
        async for cell in self._as_they_come(looks, within_s=_THERE_WITHIN_S):
            missing.discard(cell)
        return sorted(missing)

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


def label_of(cell: Cell) -> str:
    """By which a Workspace selects nodes of its own."""
    return "-".join(cell)


@pytest.fixture(scope="module")
def tables(
    control_plane: ControlPlane,  # builds the programs, or skips
    crowded_prefect: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, int], Harmed]:
    """How a try of a provisioner's table went, which is done once, when it is first asked for."""

    @cache
    def of(provisioner: str, number: int) -> Harmed:
        cells, table = cells_for(provisioner), TABLES[provisioner]
        own = [label_of(cell) for cell in table if cells[cell[0]][cell[1]].has_own_node]
        folder = tmp_path_factory.mktemp("kept-true")
        with (
            claiming_installation(folder, crowded_prefect, provisioner=provisioner) as made,
            machines_for(provisioner, made, own) as machines,
        ):
            made.start_worker()
            made.start("watcher")
            found = asyncio.run(_run(provisioner, made, machines))
            made.stop()
        _tell(found)
        return found

    return of


@pytest.fixture
def harmed(
    tables: Callable[[str, int], Harmed], request: pytest.FixtureRequest
) -> Callable[[str], Harmed]:
    """How the table of a provisioner went; a test that is run again has it done again."""
    number = getattr(request.node, "execution_count", 1)
    return lambda provisioner: tables(provisioner, number)


def _tell(found: Harmed) -> None:
    lines = (f"{' '.join(cell):<32} {seconds:6.1f} s" for cell, seconds in found.back_s.items())
    left = (f"{' '.join(cell)} is left as {status}" for cell, status in found.left.items())
    cores = (
        f"{len(TABLES[found.provisioner])} settled cost the watcher {found.watcher_cores:.3f} cores"
    )
    sys.stdout.write("\n".join([f"{found.provisioner}: back after", *lines, cores, *left, ""]))


async def _run(provisioner: str, installed: Installation, machines: Machines) -> Harmed:
    settings = client.Configuration()
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        str(installed.control_plane.kubeconfig), client_configuration=settings
    )
    api = KubeApi(client.ApiClient(settings))
    try:
        return await Table(provisioner, installed, api, machines).run()
    finally:
        await api.close()


def _cells_of_all() -> list[object]:
    return [
        pytest.param(provisioner, cell, id=" ".join((provisioner, *cell)))
        for provisioner, table in TABLES.items()
        for cell in table
    ]


@pytest.mark.parametrize(("provisioner", "cell"), _cells_of_all())
def test_what_was_lost_is_there_again(
    harmed: Callable[[str], Harmed], provisioner: str, cell: Cell
) -> None:
    found = harmed(provisioner)
    assert cell in found.back_s, found.left.get(cell)
    assert cell in found.settled, found.left.get(cell)


@pytest.mark.parametrize("provisioner", PROVISIONERS)
def test_nothing_is_trained_again_that_was_tuned(
    harmed: Callable[[str], Harmed], provisioner: str
) -> None:
    found = harmed(provisioner)
    for phase in ("loading", "settled"):
        # By its Job, which may start a second pod before it has heard of the first.
        tuned = {pod.rpartition("-")[0] for pod in found.trained[phase]}
        assert tuned == {f"{name}-tune-1" for name in cells_for(provisioner)[phase]}
        assert found.trained_again[phase] == []


@pytest.mark.parametrize("provisioner", PROVISIONERS)
def test_what_stands_is_not_written_to(harmed: Callable[[str], Harmed], provisioner: str) -> None:
    assert harmed(provisioner).restless == []
