"""Asks others what a plan wants to know; each is given a short while, and all are asked at once.

On a cluster this is asked by the worker, for whoever may make a Workspace: so only addresses that
are public are asked, and what is inside a private network is left to the Workspace's own pods.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.contract.errors import (
    CloudUnavailable,
    DownloadFailed,
    KaitoflowError,
    KubernetesUnavailable,
    Refused,
    RegistryUnavailable,
)
from tasks.contract.image_reference import parse_reference
from tasks.contract.programs.dataset import LookConfig
from tasks.contract.programs.image import PushConfig
from tasks.contract.workspace import Workspace
from tasks.plan.findings import DatasetSeen, Findings
from tasks.plan.programs import run_here
from tasks.platform.base import World
from tasks.settings import Settings
from tasks.skus.prices import PriceTable, price_table

if TYPE_CHECKING:
    from tasks.nodes.aks.quota import Quotas

T = TypeVar("T")
Nodes = Sequence[Mapping[str, Any]]


async def look(
    workspace: Workspace,
    world: World,
    settings: Settings,
    *,
    list_nodes: Callable[[], Awaitable[Nodes]] | None,
) -> Findings:
    """What there is to be found within `settings.plan_timeout_s`; errors are findings too.

    Args: list_nodes: of the cluster; None = there is none.
    """
    limit_s = settings.plan_timeout_s
    dataset, may_push, nodes, quotas = await asyncio.gather(
        _within(limit_s, _dataset(workspace, world, settings), DownloadFailed, "the dataset"),
        _within(limit_s, _push(workspace, world, settings), RegistryUnavailable, "the registry"),
        _within(limit_s, _nodes(list_nodes), KubernetesUnavailable, "the cluster"),
        _within(limit_s, _quotas(settings), CloudUnavailable, "Azure"),
    )
    return Findings(
        dataset=dataset,
        may_push=may_push,
        nodes=nodes,
        quotas=quotas,
        prices=_prices(settings),
        provisioner=settings.provisioner if world.is_cluster else "local",
    )


async def _within(
    limit_s: float, work: Awaitable[T], silence: type[KaitoflowError], whom: str
) -> T | KaitoflowError:
    """What a look found, or the error that it ended with.

    Args: silence: what it means that there is no answer in time.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError:
        return silence(
            f"{whom} was asked",
            f"there was no answer within {limit_s:g} s",
            "run the plan again, or raise KAITOFLOW_PLAN_TIMEOUT_S",
        )
    except KaitoflowError as error:
        return error


async def _dataset(workspace: Workspace, world: World, settings: Settings) -> DatasetSeen | None:
    urls = workspace.tuning.input.urls if workspace.tuning else []
    if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
        return None
    config = LookConfig(
        urls=tuple(urls),
        allow_local_addresses=settings.allow_local_addresses and not world.is_cluster,
    )
    with tempfile.TemporaryDirectory() as folder:
        seen = await run_here("tasks.dataset.pod.look", config, Path(folder))
    return DatasetSeen(bytes=tuple(seen["bytes"]), web_pages=tuple(seen["web_pages"]))


async def _push(workspace: Workspace, world: World, settings: Settings) -> bool | None:
    """Whether a push is allowed, proved by an upload that is begun and given up."""
    output = workspace.tuning.output if workspace.tuning else None
    if not (output and output.image and world.push) or not _is_image(output.image):
        return None
    with tempfile.TemporaryDirectory() as folder:
        login = Path(folder) / "docker.json"
        if world.docker_config is not None:
            login.touch(mode=0o600)
            login.write_bytes(world.docker_config)
        config = PushConfig(
            adapter_dir=Path(folder),
            layout_dir=Path(folder),
            reference=output.image,
            docker_config=login if world.docker_config is not None else None,
            insecure=settings.insecure_registries,
            patience_s=0,
            public_only=world.is_cluster,
        )
        try:
            await run_here("tasks.image.pod.check", config, Path(folder))
        except KaitoflowError as error:
            secret = f"Secret {output.image_push_secret}"
            parts = (part.replace(str(login), secret) for part in error.args)
            raise type(error)(*parts) from None
    return True


def _is_image(name: str) -> bool:
    try:
        parse_reference(name)
    except Refused:
        return False
    return True


async def _nodes(list_nodes: Callable[[], Awaitable[Nodes]] | None) -> Nodes | None:
    return await list_nodes() if list_nodes else None


async def _quotas(settings: Settings) -> "Quotas | None":
    if settings.provisioner != "aks":
        return None
    # Azure's clients take half a second to import: not in the loop that all runs share.
    azure_login = await asyncio.to_thread(_azure)
    from tasks.nodes.aks.quota import read_quotas

    async with azure_login.compute_client(settings) as client:
        return await read_quotas(client, settings.azure_location)


def _azure() -> Any:
    from tasks.nodes.aks import login, quota  # noqa: F401  its client comes with it

    return login


def _prices(settings: Settings) -> PriceTable | KaitoflowError:
    try:
        return price_table(settings.price_table)
    except KaitoflowError as error:
        return error
