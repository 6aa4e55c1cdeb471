"""Asks registries what a plan wants to know of images: who may push, and whether they are there.

On a cluster this is asked by the worker, for whoever may make a Workspace: so only addresses that
are public are asked.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

from tasks.adapter_start import asked_start
from tasks.contract.adapter_history import AdapterRecord, candidate_image
from tasks.contract.errors import (
    KaitoflowError,
    Refused,
    RegistryDenied,
    RegistryUnavailable,
)
from tasks.contract.found_adapters import found_adapter, number_of
from tasks.contract.gate_command import gate_command_of
from tasks.contract.image_reference import (
    Reference,
    model_image,
    parse_push_reference,
    parse_reference,
)
from tasks.contract.workspace import Workspace
from tasks.plan.asking import ask, login_file, no_answer
from tasks.plan.findings import WeightsSeen
from tasks.plan.model import preset_or_none
from tasks.plan.tuned import tuned_from_the_same
from tasks.platform.base import World
from tasks.remote.layout_index import find_manifest
from tasks.remote.manifest import blob_path, digest_of, read_annotations
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository
from tasks.settings import Settings

T = TypeVar("T")

# Of a Workspace, as many as its status tells of; they are read in one question.
_ADAPTERS_MAX = 50
_ADAPTERS_TURNS = 20
_ONE_TRY = Patience(broken_s=0)


async def see_weights(workspace: Workspace, world: World, settings: Settings) -> WeightsSeen | None:
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


async def see_push(workspace: Workspace, world: World, settings: Settings) -> bool | None:
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


async def see_tuned_image(workspace: Workspace, world: World, settings: Settings) -> bool | None:
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


async def see_start(
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


async def see_gate_image(workspace: Workspace, world: World, settings: Settings) -> bool | None:
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

    found = await ask_it(read, limit_s=_ADAPTERS_TURNS * settings.plan_timeout_s) if latest else []
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
        raise no_answer(RegistryUnavailable, reference.registry, limit_s) from None


def _is_image(name: str) -> bool:
    try:
        parse_reference(name)
    except Refused:
        return False
    return True
