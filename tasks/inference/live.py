"""The server that runs, asked for other adapters than it began with, so that no new pod is made."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from tasks.contract.artifacts import Node, PublishedImage
from tasks.contract.errors import AdapterMismatch, ServerNotReady
from tasks.contract.image_reference import parse_reference
from tasks.contract.programs.serving import ServerConfig
from tasks.contract.steps import PULL_ALL, SERVE, StepName
from tasks.contract.workspace import Adapter, Workspace
from tasks.inference.promotion import LiveServer, exchange
from tasks.platform.base import Address, Container, Pod
from tasks.platform.current import current_platform
from tasks.platform.manifests.naming import admin_key_secret
from tasks.pods import inference_pod
from tasks.steps import recorded_step


async def live_server(workspace: Workspace) -> LiveServer | None:
    """The server that runs; None where it tells no address, or no key of its admin is known."""
    platform = current_platform()
    status, key = await platform.read_status(workspace), await platform.admin_key(workspace)
    return LiveServer(status.endpoint.url, key) if key and status.endpoint else None


def no_key(workspace: Workspace) -> str:
    """Why a server that runs cannot be asked, with what would change it."""
    secret = admin_key_secret(workspace)
    wish = f" (make Secret {secret} with one)" if current_platform().is_cluster else ""
    return f"no admin key opens the one that ran{wish}"


async def running_server(
    workspace: Workspace, node: Node, image: PublishedImage | None, address: Address
) -> Pod | None:
    """The pod that answers already as it is asked for; None = a new one is needed.

    Where only its adapters are others, it loads them while it serves, so that no request fails.

    Args: as of `inference_pod`.
    Raises: what the server refuses an adapter for; it serves on what it did.
    """
    platform = current_platform()
    # What runs keeps the GPUs that it has, however many are free by now.
    held = node.with_gpus(await platform.server_gpus(workspace))
    pod = await inference_pod(workspace, held, image, address)
    does_run = await platform.has_server(workspace, pod)
    return pod if does_run or await _takes_adapters(workspace, pod, held, address) else None


async def _takes_adapters(workspace: Workspace, pod: Pod, node: Node, address: Address) -> bool:
    """Whether what serves has become the pod by now, since only its adapters were others.

    It is that whenever its pod is made anew, too.
    """
    served = await current_platform().served(workspace)
    if not (served and served.inference and workspace.inference and workspace.preset):
        return False
    before = {each.source.name or "": each for each in served.inference.adapters}
    wanted = {each.source.name or "": each for each in workspace.inference.adapters}
    if before == wanted:
        return False
    inference = workspace.inference.model_copy(update={"adapters": [*before.values()]})
    as_before = workspace.model_copy(update={"inference": inference})
    was = await inference_pod(as_before, node, None, address)
    if not await current_platform().has_server(workspace, was):
        return False
    coming = {name: each for name, each in wanted.items() if before.get(name) != each}
    async with recorded_step(workspace, StepName.PULL_ADAPTERS) as step:
        why_not = why_not_live(was, pod, coming.values()) or await _exchange(
            workspace, coming, unload=before.keys() - wanted.keys()
        )
        step.detail = f"a new pod has them, since {why_not}" if why_not else "while it served"
    if not why_not:
        await current_platform().renew_server(workspace, pod)
    return not why_not


def why_not_live(was: Pod, pod: Pod, coming: Iterable[Adapter]) -> str:
    """Why a pod cannot become another by loading adapters; empty where it can."""
    if _but_adapters(was) != _but_adapters(pod):
        return "with them it needs other Secrets, volumes, room or settings"
    scaled = [each.source.name for each in coming if float(each.strength) != 1]
    return f"the strength of {', '.join(map(str, scaled))} is not 1" if scaled else ""


def _but_adapters(pod: Pod) -> Pod:
    return replace(pod, containers=tuple(map(_but_its_adapters, pod.containers)))


def _but_its_adapters(container: Container) -> Container:
    if container.name == SERVE and isinstance(container.config, ServerConfig):
        return replace(container, config=replace(container.config, adapters=()))
    return replace(container, config=None) if container.name == PULL_ALL else container


async def _exchange(
    workspace: Workspace, coming: Mapping[str, Adapter], *, unload: Collection[str]
) -> str:
    """Why the server that runs did not take them; empty where it did."""
    server = await live_server(workspace)
    if server is None:
        return no_key(workspace)
    images = {
        name: str(parse_reference(each.source.image))
        for name, each in coming.items()
        if each.source.image
    }
    try:
        await exchange(server, load=images, unload=unload)
    except (ServerNotReady, AdapterMismatch) as error:
        # Some kinds of adapters are served only by a server that begins with them.
        return f"the one that ran did not take them ({error.found})"
    return ""
