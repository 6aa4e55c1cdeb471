"""Asks others what a plan wants to know; each is given a short while, and all are asked at once.

On a cluster this is asked by the worker, for whoever may make a Workspace: so only addresses that
are public are asked, and what is inside a private network is left to the Workspace's own pods.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tasks.adapter_start import asked_start
from tasks.chat.trial import try_chat_template
from tasks.contract.adapter_history import AdapterRecord, candidate_image
from tasks.contract.apart import WITHIN_S
from tasks.contract.errors import (
    CloudUnavailable,
    DownloadFailed,
    JudgeUnavailable,
    KaitoflowError,
    KubernetesUnavailable,
    Refused,
    RegistryDenied,
    RegistryUnavailable,
)
from tasks.contract.evaluation_data import evaluation_url
from tasks.contract.found_adapters import found_adapter, number_of
from tasks.contract.gate_command import gate_command_of
from tasks.contract.image_reference import (
    Reference,
    model_image,
    parse_push_reference,
    parse_reference,
)
from tasks.contract.judge import judge_of
from tasks.contract.words import unknown_variables
from tasks.contract.workspace import Workspace
from tasks.nodes.held_gpus import HolderLister
from tasks.plan.addresses import is_web
from tasks.plan.asking import ask, login_file
from tasks.plan.findings import DatasetSeen, Findings, JudgeSeen, WeightsSeen
from tasks.plan.hub import HUB, look_up
from tasks.plan.model import config_or_none, preset_or_none
from tasks.plan.rehearsal import Rehearsal
from tasks.plan.tuned import tuned_from_the_same
from tasks.platform.base import World
from tasks.presets import Preset
from tasks.remote.file_server import Client, UrlProbe, open_client, probe, shown
from tasks.remote.judge_server import JudgeServer
from tasks.remote.layout_index import find_manifest
from tasks.remote.manifest import blob_path, digest_of, read_annotations
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository
from tasks.settings import Settings
from tasks.skus.prices import PriceTable, price_table

if TYPE_CHECKING:
    from tasks.nodes.aks.quota import Quotas

T = TypeVar("T")
Nodes = Sequence[Mapping[str, Any]]

# The dry runs of hundreds of Workspaces take turns, and none is left out.
_TURNS = 20
# Of a Workspace, as many as its status tells of.
_ADAPTERS_MAX = 50
_ONE_TRY = Patience(broken_s=0)


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
            _finding(_push(workspace, world, settings)),
            _finding(_tuned_image(workspace, world, settings)),
            _finding(_start(workspace, world, settings)),
        ),
        asyncio.gather(
            _finding(_weights(workspace, world, settings)),
            _finding(_evaluation(workspace, world, settings)),
            _finding(_judge(workspace, world, settings)),
            _finding(_gate_image(workspace, world, settings)),
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
        return _no_answer(silence, whom, limit_s)


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
            raise _no_answer(DownloadFailed, endpoint, limit_s) from None


async def _weights(workspace: Workspace, world: World, settings: Settings) -> WeightsSeen | None:
    """Whether the registry that base models come from has this one."""
    preset, registry = preset_or_none(workspace), settings.models_registry
    if preset is None or not registry:
        return None
    image = model_image(registry, preset.model, preset.revision)
    try:
        digest = await _ask_registry(
            workspace,
            parse_reference(image),
            "pull",
            Repository.manifest_digest,
            world=replace(world, docker_config=None),
            settings=settings,
        )
    except RegistryDenied:
        if not settings.models_registry_secret and world.is_cluster:
            raise
        return WeightsSeen(image=image, digest=None)
    return WeightsSeen(image=image, digest=digest or "")


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
    if ("Secret", workspace.push_secret) in world.faults:
        return None  # the registry would only say that nobody has logged in
    reference = parse_push_reference(output.image)
    await _ask_registry(
        workspace, reference, "pull,push", Repository.check_push, world=world, settings=settings
    )
    return True


async def _tuned_image(workspace: Workspace, world: World, settings: Settings) -> bool | None:
    """Whether the image that was tuned from the very same is still where it was published."""
    known = tuned_from_the_same(workspace, world)
    image = known.image if known else None
    if image is None:
        return None
    if not world.push:
        folder = image.layout_dir
        return folder is not None and (folder / blob_path(image.digest)).is_file()
    if not image.pushed:
        return False
    reference = parse_reference(f"{image.reference}@{image.digest}")
    found = await _ask_registry(
        workspace, reference, "pull", Repository.manifest_digest, world=world, settings=settings
    )
    return found is not None


async def _start(
    workspace: Workspace, world: World, settings: Settings
) -> Mapping[str, str] | None:
    """What the image says of itself that a tuning goes on from; None = it goes on from none."""
    asked = asked_start(workspace)
    if asked is None or asked.folder:
        return None
    name, serving = asked.image, world.tuned.image if world.tuned else None
    if not name and serving:
        name = f"{serving.reference}@{serving.digest}"
    if not name:
        return None
    reference = parse_reference(name)
    layout_dir = world.home / "images" if world.home else None
    kept = find_manifest(layout_dir, str(reference)) if layout_dir else None
    if layout_dir and kept:
        manifest = (layout_dir / blob_path(kept)).read_bytes()
    else:
        manifest = await _ask_registry(
            workspace,
            reference,
            "pull",
            lambda repository: repository.read_manifest(reference.target),
            world=world,
            settings=settings,
        )
    return read_annotations(manifest, image=name)


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
            raise _no_answer(JudgeUnavailable, str(judge), limit_s) from None
    return JudgeSeen(models=tuple(models or ()))


async def _gate_image(workspace: Workspace, world: World, settings: Settings) -> bool | None:
    """Whether the image is there in which candidates are scored; None = they are not, or not so."""
    annotations = workspace.metadata.annotations
    command = gate_command_of(annotations) if workspace.tuning else None
    if command is None or not (command.image and world.is_cluster):
        return None
    reference = parse_reference(command.image)
    found = await _ask_registry(
        workspace, reference, "pull", Repository.manifest_digest, world=world, settings=settings
    )
    return found is not None


async def look_for_free_number(
    workspace: Workspace, first: int, world: World, settings: Settings
) -> int:
    """The first number from this one on whose candidate's image is not there yet.

    As of a Workspace that was made anew, or whose status was lost. A registry that cannot be asked
    from here is asked by the push.
    """
    assert workspace.tuning
    assert workspace.tuning.output.image
    number = first
    with contextlib.suppress(KaitoflowError):
        while await _is_taken(
            workspace, candidate_image(workspace.tuning.output.image, number), world, settings
        ):
            number += 1
    return number


async def look_for_adapters(
    workspace: Workspace, world: World, settings: Settings
) -> list[AdapterRecord]:
    """The adapters whose images say that this very Workspace made them; of many the latest.

    Raises: RegistryDenied, RegistryUnavailable, ImageReferenceInvalid, ImageUnreadable,
        AddressForbidden.
    """
    assert workspace.tuning
    image = workspace.tuning.output.image
    assert image
    ask_it = partial(
        _ask_registry,
        workspace,
        parse_push_reference(image),
        "pull",
        world=world,
        settings=settings,
    )
    numbers = {tag: number_of(image, tag) for tag in await ask_it(Repository.tags)}
    latest = sorted((number, tag) for tag, number in numbers.items() if number)[-_ADAPTERS_MAX:]

    def read(repository: Repository) -> list[AdapterRecord | None]:
        manifests = [(number, repository.read_manifest(tag)) for number, tag in latest]
        return [
            found_adapter(
                image,
                number,
                digest_of(manifest),
                read_annotations(manifest, image=f"adapter {number} of {image}"),
                uid=workspace.metadata.uid or "",
            )
            for number, manifest in manifests
        ]

    found = await ask_it(read, limit_s=_TURNS * settings.plan_timeout_s) if latest else []
    return [each for each in found if each]


async def _is_taken(workspace: Workspace, image: str, world: World, settings: Settings) -> bool:
    if world.home and find_manifest(world.home / "images", image):
        return True
    if not world.push:
        return False
    found = await _ask_registry(
        workspace,
        parse_push_reference(image),
        "pull",
        Repository.manifest_digest,
        world=world,
        settings=settings,
    )
    return found is not None


async def _ask_registry(
    workspace: Workspace,
    reference: Reference,
    access: Literal["pull", "pull,push"],
    question: Callable[[Repository], T],
    *,
    world: World,
    settings: Settings,
    limit_s: float = 0.0,
) -> T:
    """What the registry says to a question, asked with the login that the image is pushed with.

    Args: limit_s: for several answers; 0 = as long as any look may take.
    """
    secret = f"Secret {workspace.push_secret}"

    def asked() -> T:
        with login_file(world.docker_config) as login:
            try:
                with Repository(
                    reference,
                    access,
                    docker_config=login,
                    insecure=settings.insecure_registries,
                    patience=_ONE_TRY,
                    public_only=world.is_cluster,
                ) as repository:
                    return question(repository)
            except KaitoflowError as error:
                parts = (part.replace(str(login), secret) for part in error.args)
                raise type(error)(*parts) from None

    limit_s = limit_s or settings.plan_timeout_s
    try:
        return await ask(asked, limit_s=limit_s)
    except TimeoutError:
        raise _no_answer(RegistryUnavailable, reference.registry, limit_s) from None


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
