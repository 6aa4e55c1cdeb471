"""Step `provision`: a node that the Workspace's pods can run on; kept, and given back."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import cast

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.contract.artifacts import Node
from tasks.contract.errors import InvalidPriceTable, KaitoflowError
from tasks.contract.held_cost import HeldMachine
from tasks.contract.status import ConditionType, WorkspaceStatus
from tasks.contract.steps import StepName
from tasks.contract.units import utc_moment
from tasks.contract.workspace import Workspace
from tasks.nodes.current import current_provisioner
from tasks.nodes.need import need_of
from tasks.nodes.offers import CapacityType
from tasks.nodes.provisioner import ReadyNodes, Waiting
from tasks.platform.current import current_platform
from tasks.settings import settings
from tasks.skus.prices import price_table
from tasks.steps import change_status, recorded_step

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 15.0
# The sums of a cost are for who reads a status as it is; each time they cost a write.
_SUM_AGAIN = timedelta(minutes=5)


@task(
    name=StepName.PROVISION.value,
    task_run_name=f"{StepName.PROVISION} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def provision_node(workspace: Workspace, *, memory_gib: float | None = None) -> Node:
    """The node for the Workspace; on the local platform this machine.

    Args: memory_gib: the plan's estimate of the peak.
    Raises: NodeNotReady: none that fits was there in time.
    """
    async with recorded_step(workspace, StepName.PROVISION) as step:
        ready = await _ensure(workspace, memory_gib)
        step.detail = ready.detail
        return ready.nodes[0]


async def _ensure(workspace: Workspace, memory_gib: float | None) -> ReadyNodes:
    async def wait(waiting: Waiting) -> None:
        await change_status(workspace, lambda status: _not_ready(status, waiting))

    need = need_of(workspace, memory_gib=memory_gib)
    ready = await current_provisioner().ensure_nodes(workspace, need, on_waiting=wait)
    await change_status(workspace, lambda status: _ready(status, ready))
    return ready


@contextlib.asynccontextmanager
async def kept_nodes(workspace: Workspace, *, memory_gib: float | None) -> AsyncIterator[None]:
    """While the context lasts, a node that is lost is claimed again, so that its pods go on."""
    if not current_provisioner().makes_nodes:
        yield
        return
    keeper = asyncio.create_task(_keep(workspace, memory_gib), name=f"nodes of {workspace}")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def _keep(workspace: Workspace, memory_gib: float | None) -> None:
    while True:
        await asyncio.sleep(_LOOK_AGAIN_S)
        try:
            await _ensure(workspace, memory_gib)
        except KaitoflowError as error:
            logger.warning("nodes not kept workspace=%s: %s", workspace, error)


async def give_back_nodes(workspace: Workspace) -> None:
    """No node of the Workspace's own is left; what cannot be done now is told.

    Its claim stays until its machine is gone, and the Workspace does not go before its claims.
    """
    await _give_back(workspace, keep=frozenset())


async def give_back_unused_nodes(workspace: Workspace) -> None:
    """Leave only the nodes on which the Workspace's server runs, when a run has failed.

    A server that answers, of this generation or of the one before, is not taken down by a run that
    was refused, or failed, beside it.
    """
    if not current_provisioner().makes_nodes:
        return
    platform = current_platform()
    status = await platform.read_status(workspace)
    served = status.served_generation
    seen = None if served is None else await platform.server_nodes(workspace, served)
    await _give_back(workspace, keep=nodes_of_server(status, seen))


def nodes_of_server(status: WorkspaceStatus, seen: Collection[str] | None) -> frozenset[str]:
    """The nodes without which what serves would serve no more.

    Args: seen: on which pods of the served generation are; empty while they are on their way to a
    node, None when that generation has no server any more.
    """
    if status.served_generation is None or seen is None:
        return frozenset()
    return frozenset(seen or status.worker_nodes)


async def _give_back(workspace: Workspace, *, keep: frozenset[str]) -> None:
    if not current_provisioner().makes_nodes:
        return
    try:
        kept = await current_provisioner().release(workspace, is_final=False, keep=keep)
    except KaitoflowError as error:
        logger.warning("nodes not given back yet workspace=%s: %s", workspace, error)
        return

    def change(status: WorkspaceStatus) -> None:
        _hold(status, kept)
        status.worker_nodes = sorted(keep)
        if not keep:
            message = "its nodes were given back; run the Workspace again to have it served"
            status.server_ended(reason="Stopped", message=message)

    await change_status(workspace, change)


def _not_ready(status: WorkspaceStatus, waiting: Waiting) -> None:
    if status.progress.step_name == StepName.PROVISION:
        status.progress.phase = waiting.message
    kinds = [ConditionType.NODES_READY, ConditionType.RESOURCE_READY]
    if waiting.are_claims_ready is False:
        kinds.insert(0, ConditionType.NODE_CLAIM_READY)
    elif waiting.are_claims_ready:
        _claims_ready(status)
    if waiting.machines is not None:
        _hold(status, waiting.machines)
    for kind in kinds:
        status.set_condition(kind, status="False", reason=waiting.reason, message=waiting.message)


def _ready(status: WorkspaceStatus, ready: ReadyNodes) -> None:
    older = status.served_generation not in (None, status.observed_generation)
    still_used = status.worker_nodes if older else ()
    status.worker_nodes = sorted({node.name for node in ready.nodes} | set(still_used))
    if ready.are_claimed:
        _claims_ready(status)
        _hold(status, ready.machines)
    for kind, reason in (
        (ConditionType.NODES_READY, "NodesReady"),
        (ConditionType.RESOURCE_READY, "workspaceResourceStatusSuccess"),
    ):
        status.set_condition(kind, status="True", reason=reason, message=ready.detail)


def _hold(status: WorkspaceStatus, machines: Iterable[HeldMachine]) -> None:
    """Note which machines are held now, and what they have cost so far."""
    now = datetime.now(UTC)
    cost = status.cost.holding([_with_price(machine) for machine in machines], now)
    is_old = not status.cost.as_of or now - utc_moment(status.cost.as_of) > _SUM_AGAIN
    if is_old or cost.machines != status.cost.machines:
        status.cost = cost


def _with_price(machine: HeldMachine) -> HeldMachine:
    kind = cast("CapacityType", machine.capacity_type)
    try:
        price = price_table(settings().price_table).price_per_hour(machine.instance_type, kind)
    except InvalidPriceTable as error:
        logger.warning("price not known instance_type=%s: %s", machine.instance_type, error)
        price = None
    return machine.model_copy(update={"price_per_hour": price})


def _claims_ready(status: WorkspaceStatus) -> None:
    status.set_condition(
        ConditionType.NODE_CLAIM_READY,
        status="True",
        reason="NodeClaimsReady",
        message="every claim has become a node",
    )
