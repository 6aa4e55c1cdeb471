"""Asks others what a plan wants to know; each is given a short while, and all are asked at once.

On a cluster this is asked by the worker, for whoever may make a Workspace: so only addresses that
are public are asked, and what is inside a private network is left to the Workspace's own pods.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.chat.trial import try_chat_template
from tasks.contract.apart import WITHIN_S
from tasks.contract.errors import (
    CloudUnavailable,
    DownloadFailed,
    JudgeUnavailable,
    KaitoflowError,
    KubernetesUnavailable,
)
from tasks.contract.evaluation_data import evaluation_url
from tasks.contract.judge import judge_of
from tasks.contract.words import unknown_variables
from tasks.contract.workspace import Workspace
from tasks.nodes.held_gpus import HolderLister
from tasks.plan.addresses import is_web
from tasks.plan.asking import ask, no_answer
from tasks.plan.findings import DatasetSeen, Findings, JudgeSeen
from tasks.plan.hub import HUB, look_up
from tasks.plan.model import config_or_none, preset_or_none
from tasks.plan.registries import (
    see_gate_image,
    see_push,
    see_start,
    see_tuned_image,
    see_weights,
)
from tasks.plan.rehearsal import Rehearsal
from tasks.platform.base import World
from tasks.presets import Preset
from tasks.remote.file_server import Client, UrlProbe, open_client, probe, shown
from tasks.remote.judge_server import JudgeServer
from tasks.settings import Settings
from tasks.skus.prices import PriceTable, price_table

if TYPE_CHECKING:
    from tasks.nodes.aks.quota import Quotas

T = TypeVar("T")
Nodes = Sequence[Mapping[str, Any]]

# The dry runs of hundreds of Workspaces take turns, and none is left out.
_TURNS = 20


async def look(
    workspace: Workspace,
    world: World,
    settings: Settings,
    *,
    list_nodes: Callable[[], Awaitable[Nodes]] | None,
    list_holders: HolderLister | None,
    rehearse: Callable[[], Awaitable[Rehearsal]] | None = None,
) -> Findings:
    """What there is to be found, `settings.plan_timeout_s` for each; errors are findings too.

    Args: list_nodes, list_holders: of the cluster; None = there is none. rehearse: hears what the
    cluster says to all that is to be made, in its turn; None = it cannot be heard from here.
    """
    limit_s = settings.plan_timeout_s
    (
        (base_model, dataset, chat_template, may_push, has_tuned_image, start),
        (weights, evaluation, judge, has_gate_image),
        (nodes, holders, rehearsal, quotas),
    ) = await asyncio.gather(
        asyncio.gather(
            _finding(_base_model(workspace, world, settings)),
            _finding(_dataset(workspace, world, settings)),
            _finding(_chat_template(workspace, world)),
            _finding(see_push(workspace, world, settings)),
            _finding(see_tuned_image(workspace, world, settings)),
            _finding(see_start(workspace, world, settings)),
        ),
        asyncio.gather(
            _finding(see_weights(workspace, world, settings)),
            _finding(_evaluation(workspace, world, settings)),
            _finding(_judge(workspace, world, settings)),
            _finding(see_gate_image(workspace, world, settings)),
        ),
        asyncio.gather(
            _within(limit_s, _listed(list_nodes), KubernetesUnavailable, "the cluster"),
            _within(limit_s, _listed(list_holders), KubernetesUnavailable, "the cluster"),
            _within(_TURNS * limit_s, _listed(rehearse), KubernetesUnavailable, "the cluster"),
            _within(limit_s, _quotas(settings), CloudUnavailable, "Azure"),
        ),
    )
    return Findings(
        base_model=base_model,
        weights=weights,
        dataset=dataset,
        chat_template=chat_template,
        may_push=may_push,
        has_tuned_image=has_tuned_image,
        start=start,
        evaluation=evaluation,
        judge=judge,
        has_gate_image=has_gate_image,
        nodes=nodes,
        gpu_holders=holders,
        rehearsal=rehearsal,
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
        return no_answer(silence, whom, limit_s)


async def _chat_template(workspace: Workspace, world: World) -> bool | None:
    """Whether the settings' own chat template can be used; None = they have none.

    Raises: InvalidTuningConfig.
    """
    config = config_or_none(workspace, world)
    template = config.model.chat_template if config else None
    if not template:
        return None
    await ask(lambda: try_chat_template(template), limit_s=2 * WITHIN_S)
    return True


async def _base_model(workspace: Workspace, world: World, settings: Settings) -> Preset | None:
    """What the hub says of a model that is in no catalogue, without anybody's token."""
    preset = preset_or_none(workspace)
    if preset is None or preset.size_gib is not None:
        return None
    environment = settings.pod_environment if world.is_cluster else os.environ
    if environment.get("HF_HUB_OFFLINE"):
        return None
    endpoint, limit_s = environment.get("HF_ENDPOINT") or HUB, settings.plan_timeout_s
    with open_client(allow_local_addresses=not world.is_cluster) as client:
        try:
            return await ask(lambda: look_up(client, preset, endpoint=endpoint), limit_s=limit_s)
        except TimeoutError:
            raise no_answer(DownloadFailed, endpoint, limit_s) from None


async def _dataset(workspace: Workspace, world: World, settings: Settings) -> DatasetSeen | None:
    """What the servers say of the files; none of them is read.

    Raises: DatasetUnreachable, AddressForbidden, DownloadFailed: of the first file that has one.
    """
    urls = workspace.tuning.input.urls if workspace.tuning else []
    return await _files_at(urls, world, settings)


async def _evaluation(workspace: Workspace, world: World, settings: Settings) -> DatasetSeen | None:
    """The same of the rows that adapters are measured on, where a user has set some aside.

    Raises: InvalidWorkspace, DatasetUnreachable, AddressForbidden, DownloadFailed.
    """
    url = evaluation_url(workspace.metadata.annotations) if workspace.tuning else None
    return await _files_at([url] if url else [], world, settings)


async def _files_at(urls: Sequence[str], world: World, settings: Settings) -> DatasetSeen | None:
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
        raise no_answer(DownloadFailed, shown(url), limit_s) from None


async def _all(questions: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All answers in order; the first error ends the questions that are left."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(question) for question in questions]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _judge(workspace: Workspace, world: World, settings: Settings) -> JudgeSeen | None:
    """What the judge says of itself; None = no candidate is judged.

    Raises: InvalidWorkspace, JudgeUnavailable, AddressForbidden.
    """
    judge = judge_of(workspace.metadata.annotations) if workspace.tuning else None
    if judge is None:
        return None
    allow_local = settings.allow_local_addresses and not world.is_cluster
    limit_s = settings.plan_timeout_s
    with JudgeServer(judge, allow_local_addresses=allow_local) as server:
        try:
            models = await ask(server.models, limit_s=limit_s)
        except TimeoutError:
            raise no_answer(JudgeUnavailable, str(judge), limit_s) from None
    return JudgeSeen(models=tuple(models or ()))


async def _listed(lister: Callable[[], Awaitable[T]] | None) -> T | None:
    return await lister() if lister else None


async def _quotas(settings: Settings) -> "Quotas | None":
    # Who plans from outside may know that nodes are AKS's, and not whose quota that takes.
    if settings.provisioner != "aks" or not settings.azure_subscription_id:
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
