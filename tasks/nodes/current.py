"""Where nodes come from. `current_provisioner` is the one that the settings name."""

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from tasks.nodes.byo import ByoProvisioner
from tasks.nodes.claims.claiming import ClaimingProvisioner
from tasks.nodes.claims.deadlines import Deadlines
from tasks.nodes.claims.karpenter import KarpenterFulfiller
from tasks.nodes.claims.ledger import Ledger
from tasks.nodes.claims.unavailable import UnavailableOffers
from tasks.nodes.garbage.collector import GarbageCollector, WithRun
from tasks.nodes.held_gpus import GpuHolder, HolderLister, gpu_holders
from tasks.nodes.local import LocalProvisioner
from tasks.nodes.provisioner import Fulfiller, Provisioner
from tasks.nodes.shared_look import SharedLook
from tasks.platform.current import current_platform, local_platform
from tasks.settings import Settings, settings
from tasks.skus.prices import price_table

if TYPE_CHECKING:
    from tasks.nodes.aks.agent_pools import AgentPools
    from tasks.nodes.aks.room import QuotaRoom
    from tasks.platform.kubernetes import KubernetesPlatform


_HOLDERS_FRESH_S = 3.0


def current_provisioner() -> Provisioner:
    """The provisioner of this process."""
    if settings().platform == "local":
        return LocalProvisioner(local_platform().node)
    platform = _cluster()
    kind = settings().provisioner or "byo"
    if kind in {"karpenter", "aks"}:
        return _claiming(platform, kind)
    return ByoProvisioner(
        _node_lister(platform),
        _holder_lister(platform),
        timeout_s=settings().node_ready_timeout_s,
    )


def current_node_lister() -> Callable[[], Awaitable[Sequence[Mapping[str, Any]]]] | None:
    """Lists the nodes of this process's cluster; None without one."""
    if settings().platform == "local":
        return None
    return _node_lister(_cluster())


def current_holder_lister(*, anew: bool) -> HolderLister | None:
    """Lists who holds GPUs of this process's cluster; None without one.

    Args: anew: what other runs have seen of late does not do.
    """
    if settings().platform == "local":
        return None
    holders = _holder_lister(_cluster())
    if anew:
        holders.forget()
    return holders


def _cluster() -> "KubernetesPlatform":
    from tasks.platform.kubernetes import KubernetesPlatform

    platform = current_platform()
    assert isinstance(platform, KubernetesPlatform)
    return platform


@functools.lru_cache(maxsize=1)
def _node_lister(platform: "KubernetesPlatform") -> SharedLook[Any]:
    """One for all runs of the process, which share its looks at the cluster."""
    return SharedLook(platform.list_nodes)


@functools.lru_cache(maxsize=1)
def _holder_lister(platform: "KubernetesPlatform") -> SharedLook[GpuHolder]:
    """The same of pods, of which a cluster has many more."""
    return SharedLook(lambda: holders_on(platform), fresh_s=_HOLDERS_FRESH_S)


async def holders_on(platform: "KubernetesPlatform") -> list[GpuHolder]:
    """Who holds GPUs of a cluster's nodes now."""
    return [holder async for page in platform.pods_on_nodes() for holder in gpu_holders(page)]


@functools.lru_cache(maxsize=1)
def _claiming(platform: "KubernetesPlatform", kind: str) -> ClaimingProvisioner:
    """One for all runs of the process, as its looks at the cluster are."""
    chosen, nodes = settings(), _node_lister(platform)
    return ClaimingProvisioner(
        Ledger(platform.api),
        KarpenterFulfiller() if kind == "karpenter" else _aks(platform, nodes),
        UnavailableOffers(platform.api, namespace=chosen.namespace),
        list_nodes=nodes,
        list_holders=_holder_lister(platform),
        list_workspaces=platform.list_workspaces,
        deadlines=Deadlines(
            launch_s=chosen.launch_timeout_s,
            register_s=chosen.register_timeout_s,
            gpu_s=chosen.gpu_timeout_s,
            capacity_s=chosen.capacity_wait_s,
        ),
        max_nodes=chosen.max_nodes,
        node_class=chosen.node_class,
        room=_room() if kind == "aks" else None,
    )


@functools.lru_cache(maxsize=1)
def _room() -> "QuotaRoom | None":
    """The room of the subscription's quota; None where nobody says whose it is."""
    chosen = settings()
    if not (chosen.azure_subscription_id and chosen.azure_location):
        return None
    from tasks.nodes.aks.login import compute_client
    from tasks.nodes.aks.quota import Quotas, read_quotas
    from tasks.nodes.aks.room import QuotaRoom
    from tasks.nodes.aks.shown_quota import show_quota

    async def read() -> Quotas:
        async with compute_client(chosen) as client:
            return await read_quotas(client, chosen.azure_location)

    return QuotaRoom(read, show=show_quota)


async def show_quotas() -> None:
    """Have Prefect show what the cloud's quotas have room for; nothing where there are none."""
    if settings().platform == "local" or settings().provisioner != "aks":
        return
    if room := _room():
        await room.show_all(await Ledger(_cluster().api).claims())


@contextlib.asynccontextmanager
async def current_collector(with_run: WithRun) -> AsyncIterator[GarbageCollector | None]:
    """Who finds the leaked machines of this process's cluster; None where no node is made.

    Args: with_run: see `GarbageCollector`.
    """
    if settings().platform == "local":
        yield None
        return
    from tasks.nodes.aks.writing import one_writer

    def writing() -> AbstractAsyncContextManager[None]:
        return one_writer(settings().azure_cluster)

    async with garbage_collector(
        _cluster(), settings(), with_run=with_run, writing=writing
    ) as collector:
        yield collector


@contextlib.asynccontextmanager
async def garbage_collector(
    platform: "KubernetesPlatform",
    chosen: Settings,
    *,
    with_run: WithRun | None = None,
    writing: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext,
) -> AsyncIterator[GarbageCollector | None]:
    """Who finds leaked machines on a cluster; None where no node is made.

    Settings that name no provisioner, as a person's, let claims be looked at and no cloud.

    Args:
        with_run: see `GarbageCollector`.
        writing: see `AksFulfiller`; without it Azure itself refuses a second operation.
    """
    if chosen.provisioner == "byo":
        yield None
        return
    async with contextlib.AsyncExitStack() as stack:
        fulfiller: Fulfiller = KarpenterFulfiller()
        if chosen.provisioner == "aks":
            from tasks.nodes.aks.login import open_agent_pools

            pools = await stack.enter_async_context(open_agent_pools(chosen))
            fulfiller = _aks_fulfiller(
                pools, platform, chosen, list_nodes=platform.list_nodes, writing=writing
            )
        yield GarbageCollector(
            platform.api,
            fulfiller,
            price_per_hour=price_table(chosen.price_table).price_per_hour,
            grace_s=chosen.garbage_grace_s,
            with_run=with_run,
        )


def _aks(platform: "KubernetesPlatform", nodes: SharedLook[Any]) -> Fulfiller:
    """Azure's clients and Prefect take seconds to import: only who makes agent pools does."""
    from tasks.nodes.aks.login import agent_pools
    from tasks.nodes.aks.writing import one_writer

    chosen = settings()
    return _aks_fulfiller(
        agent_pools(chosen),
        platform,
        chosen,
        list_nodes=nodes,
        writing=lambda: one_writer(chosen.azure_cluster),
    )


def _aks_fulfiller(
    pools: "AgentPools",
    platform: "KubernetesPlatform",
    chosen: Settings,
    *,
    list_nodes: Callable[[], Awaitable[Sequence[Any]]],
    writing: Callable[[], AbstractAsyncContextManager[None]],
) -> Fulfiller:
    from tasks.nodes.aks.fulfiller import AksFulfiller

    return AksFulfiller(
        pools,
        platform.api,
        list_nodes=list_nodes,
        writing=writing,
        installation=chosen.namespace,
        manages_gpus=chosen.azure_manages_gpus,
    )
