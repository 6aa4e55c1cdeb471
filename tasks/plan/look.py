"""Asks others what a plan wants to know; each is given a short while, and all are asked at once.

On a cluster this is asked by the worker, for whoever may make a Workspace: so only addresses that
are public are asked, and what is inside a private network is left to the Workspace's own pods.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
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
from tasks.contract.image_reference import Reference, parse_push_reference, parse_reference
from tasks.contract.words import unknown_variables
from tasks.contract.workspace import Workspace
from tasks.plan.addresses import is_web
from tasks.plan.asking import ask
from tasks.plan.findings import DatasetSeen, Findings
from tasks.platform.base import World
from tasks.remote.file_server import Client, UrlProbe, open_client, probe, shown
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository
from tasks.settings import Settings
from tasks.skus.prices import PriceTable, price_table

if TYPE_CHECKING:
    from tasks.nodes.aks.quota import Quotas

T = TypeVar("T")
Nodes = Sequence[Mapping[str, Any]]

_ONE_TRY = Patience(broken_s=0)


async def look(
    workspace: Workspace,
    world: World,
    settings: Settings,
    *,
    list_nodes: Callable[[], Awaitable[Nodes]] | None,
) -> Findings:
    """What there is to be found, `settings.plan_timeout_s` for each; errors are findings too.

    Args: list_nodes: of the cluster; None = there is none.
    """
    limit_s = settings.plan_timeout_s
    dataset, may_push, nodes, quotas = await asyncio.gather(
        _finding(_dataset(workspace, world, settings)),
        _finding(_push(workspace, world, settings)),
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
        unknown_variables=() if world.is_cluster else _unknown_variables(),
    )


def _unknown_variables() -> tuple[str, ...]:
    """Look at this machine's environment: on a cluster Kubernetes adds some for each Service."""
    return tuple(unknown_variables(os.environ, settings=Settings.model_fields))


async def _finding(work: Awaitable[T]) -> T | KaitoflowError:
    """What a look found, or the error that it ended with."""
    try:
        return await work
    except KaitoflowError as error:
        return error


async def _within(
    limit_s: float, work: Awaitable[T], silence: type[KaitoflowError], whom: str
) -> T | KaitoflowError:
    """The same for one that takes no thread.

    Args: silence: what it means that there is no answer in time.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await _finding(work)
    except TimeoutError:
        return _no_answer(silence, whom, limit_s)


async def _dataset(workspace: Workspace, world: World, settings: Settings) -> DatasetSeen | None:
    """What the servers say of the files; none of them is read.

    Raises: DatasetUnreachable, AddressForbidden, DownloadFailed: of the first file that has one.
    """
    urls = workspace.tuning.input.urls if workspace.tuning else []
    if not any(map(is_web, urls)):
        return None
    allow_local = settings.allow_local_addresses and not world.is_cluster
    with open_client(allow_local_addresses=allow_local) as client:
        found = await _all(
            [_probe(client, url, limit_s=settings.plan_timeout_s) for url in urls if is_web(url)]
        )
    said = dict(zip(filter(is_web, urls), found, strict=True))
    return DatasetSeen(
        bytes=tuple(said[url].bytes if url in said else None for url in urls),
        web_pages=tuple(shown(url) for url, each in said.items() if each.is_web_page),
    )


async def _probe(client: Client, url: str, *, limit_s: float) -> UrlProbe:
    try:
        return await ask(lambda: probe(client, url), limit_s=limit_s)
    except TimeoutError:
        raise _no_answer(DownloadFailed, shown(url), limit_s) from None


async def _all(questions: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All answers in order; the first error ends the questions that are left."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(question) for question in questions]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _push(workspace: Workspace, world: World, settings: Settings) -> bool | None:
    """Whether a push is allowed, proved by an upload that is begun and given up."""
    output = workspace.tuning.output if workspace.tuning else None
    if not (output and output.image and world.push) or not _is_image(output.image):
        return None
    reference = parse_push_reference(output.image)
    limit_s = settings.plan_timeout_s
    secret = f"Secret {output.image_push_secret}"
    try:
        await ask(lambda: _try_push(reference, world, settings, secret=secret), limit_s=limit_s)
    except TimeoutError:
        raise _no_answer(RegistryUnavailable, reference.registry, limit_s) from None
    return True


def _try_push(reference: Reference, world: World, settings: Settings, *, secret: str) -> None:
    """Nothing, if the registry would take a push now; the login is gone with its folder."""
    with tempfile.TemporaryDirectory() as folder:
        login = Path(folder) / "docker.json"
        if world.docker_config is not None:
            login.touch(mode=0o600)
            login.write_bytes(world.docker_config)
        try:
            with Repository(
                reference,
                "pull,push",
                docker_config=login if world.docker_config is not None else None,
                insecure=settings.insecure_registries,
                patience=_ONE_TRY,
                public_only=world.is_cluster,
            ) as repository:
                repository.check_push()
        except KaitoflowError as error:
            parts = (part.replace(str(login), secret) for part in error.args)
            raise type(error)(*parts) from None


def _no_answer(silence: type[KaitoflowError], whom: str, limit_s: float) -> KaitoflowError:
    return silence(
        f"{whom} was asked",
        f"there was no answer within {limit_s:g} s",
        "run the plan again, or raise KAITOFLOW_PLAN_TIMEOUT_S",
    )


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
