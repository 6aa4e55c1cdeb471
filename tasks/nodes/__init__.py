"""Where nodes come from. `current_provisioner` is the one that the settings name."""

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.nodes.byo import ByoProvisioner
from tasks.nodes.claiming import ClaimingProvisioner
from tasks.nodes.deadlines import Deadlines
from tasks.nodes.karpenter import KarpenterFulfiller
from tasks.nodes.ledger import Ledger
from tasks.nodes.local import LocalProvisioner
from tasks.nodes.provisioner import Fulfiller, Provisioner
from tasks.nodes.shared_look import SharedLook
from tasks.nodes.unavailable import UnavailableOffers
from tasks.platform import current_platform, local_platform
from tasks.settings import settings

if TYPE_CHECKING:
    from tasks.platform.kubernetes import KubernetesPlatform


def current_provisioner() -> Provisioner:
    """The provisioner of this process."""
    if settings().platform == "local":
        return LocalProvisioner(local_platform().node)
    from tasks.platform.kubernetes import KubernetesPlatform

    platform = current_platform()
    assert isinstance(platform, KubernetesPlatform)
    kind = settings().provisioner or "byo"
    if kind in {"karpenter", "aks"}:
        return _claiming(platform, kind)
    return ByoProvisioner(platform.list_nodes, timeout_s=settings().node_ready_timeout_s)


def current_node_lister() -> Callable[[], Awaitable[Sequence[Mapping[str, Any]]]] | None:
    """Lists the nodes of this process's cluster; None without one."""
    if settings().platform == "local":
        return None
    from tasks.platform.kubernetes import KubernetesPlatform

    platform = current_platform()
    assert isinstance(platform, KubernetesPlatform)
    return _node_lister(platform)


@functools.lru_cache(maxsize=1)
def _node_lister(platform: "KubernetesPlatform") -> SharedLook[Any]:
    """One for all runs of the process, which share its looks at the cluster."""
    return SharedLook(platform.list_nodes)


@functools.lru_cache(maxsize=1)
def _claiming(platform: "KubernetesPlatform", kind: str) -> ClaimingProvisioner:
    """One for all runs of the process, as its looks at the cluster are."""
    chosen, nodes = settings(), _node_lister(platform)
    return ClaimingProvisioner(
        Ledger(platform.api),
        KarpenterFulfiller() if kind == "karpenter" else _aks(platform, nodes),
        UnavailableOffers(platform.api, namespace=chosen.namespace),
        list_nodes=nodes,
        list_workspaces=platform.list_workspaces,
        deadlines=Deadlines(
            launch_s=chosen.launch_timeout_s,
            register_s=chosen.register_timeout_s,
            gpu_s=chosen.gpu_timeout_s,
            capacity_s=chosen.capacity_wait_s,
        ),
        max_nodes=chosen.max_nodes,
    )


def _aks(platform: "KubernetesPlatform", nodes: SharedLook[Any]) -> Fulfiller:
    """Azure's clients and Prefect take seconds to import: only who makes agent pools does."""
    from tasks.nodes.aks import AksFulfiller
    from tasks.nodes.azure_login import agent_pools
    from tasks.nodes.writing import one_writer

    chosen = settings()
    return AksFulfiller(
        agent_pools(chosen),
        platform.api,
        list_nodes=nodes,
        writing=lambda: one_writer(chosen.azure_cluster),
        installation=chosen.namespace,
    )
