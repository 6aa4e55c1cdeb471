"""Promotion: an adapter serves in the place of the one that did; a rollback is one, too."""

from functools import partial

from prefect import flow

from flows.adapter_run import end_candidate, recorded_adapter_run, tell
from flows.run_workspace import serve
from flows.schedules import PROMOTE_FLOW
from flows.served import expect_served
from tasks.contract.adapter_history import AdapterRecord
from tasks.contract.artifacts import Node
from tasks.contract.errors import (
    AdapterNotFound,
    InvalidWorkspace,
    KaitoflowError,
    ServerNotReady,
)
from tasks.contract.retuning import retuning_of
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import ObjectMeta, Workspace
from tasks.inference.promotion import LiveServer
from tasks.inference.promotion import promote as move_name
from tasks.nodes.task import provision_node
from tasks.platform.current import current_platform
from tasks.pods import inference_pod
from tasks.steps import change_status


@flow(
    name=PROMOTE_FLOW,
    flow_run_name="promote {namespace}/{name}",
    on_cancellation=[end_candidate],
)
async def promote_adapter(
    name: str,
    *,
    namespace: str = "default",
    number: int | None = None,
    by: str = "",
    note: str = "",
) -> int:
    """Have one of a Workspace's adapters serve, whatever the gate said of it; its number.

    Args:
        name: of the Workspace.
        namespace: where it is.
        number: of the adapter; empty = the one that waits for a word.
        by: who says so.
        note: why, to be read in the history.
    """
    expect_served(ObjectMeta(name=name, namespace=namespace))
    workspace = await find_workspace(namespace, name)
    async with recorded_adapter_run(workspace, PROMOTE_FLOW):
        status = await current_platform().read_status(workspace)
        chosen = status.adapters.find(number) if number else status.adapters.waiting
        if chosen is None:
            raise AdapterNotFound(
                f"an adapter of {workspace} was to be promoted",
                "none waits for a word",
                f"name its number (kaitoflow history {name})",
            )
        if chosen != status.adapters.serving:
            by, why = by or "Prefect", note or "promoted"
            how = await promote(workspace, chosen, by=by, why=why)
            await tell(workspace, f"promoted {name}@{chosen.number} by {by}: {why}; {how}")
    return chosen.number


async def find_workspace(namespace: str, name: str) -> Workspace:
    """The Workspace of that name, as it is kept.

    Raises: InvalidWorkspace.
    """
    found = await current_platform().find(namespace, name)
    if found is None:
        raise InvalidWorkspace(
            f"workspace {namespace}/{name} was asked for",
            "there is none of that name",
            "see which there are (kaitoflow get -A)",
        )
    return found


async def promote(workspace: Workspace, chosen: AdapterRecord, *, by: str, why: str) -> str:
    """Have an adapter serve, and keep in the status that it does; how that was done, in words.

    In this order: killed between, a run that is repeated serves the same and notes it once. Where
    its server does not come up, the former one's comes back.
    """
    status, how = await current_platform().read_status(workspace), "nothing serves it"
    if workspace.is_served and status.served_generation is not None:
        former = status.tuned.image if status.tuned else None
        try:
            how = await have_answer(workspace, chosen)
        except KaitoflowError as error:
            await change_status(workspace, partial(_keep_out, chosen, str(error)))
            await serve(workspace, await provision_node(workspace), former, port=None)
            raise
    await change_status(workspace, partial(_promote, workspace, chosen, by, why))
    return how


async def have_answer(workspace: Workspace, chosen: AdapterRecord) -> str:
    """How an adapter came to answer: the server that runs took it, or it was started with it.

    The first fails no request; a server without a key, of an earlier version, or none, takes the
    second.
    """
    if not (why_not := await _move_live(workspace, chosen)):
        return "the server moved its name while it served"
    await serve(workspace, await provision_node(workspace), chosen.image, port=None)
    return f"the server was started with it, since {why_not}"


async def _move_live(workspace: Workspace, chosen: AdapterRecord) -> str:
    """Have the server that runs answer by an adapter; why it does not, empty where it does."""
    platform = current_platform()
    status, key = await platform.read_status(workspace), await platform.admin_key(workspace)
    name, image = workspace.metadata.name, chosen.image
    if not (key and status.endpoint):
        wish = f" (make Secret {name}-admin-key with one)" if platform.is_cluster else ""
        return f"no admin key opens the one that ran{wish}"
    try:
        await move_name(
            LiveServer(status.endpoint.url, key),
            name=name,
            version=f"{name}@{chosen.number}",
            adapter=f"{image.reference}@{image.digest}",
            unload_former=True,
        )
    except ServerNotReady as error:
        return f"the one that ran did not take it ({error.found})"
    address = await platform.server_address(workspace, port=None)
    node = Node(name="", cores=1, memory_gib=0, gpus=await platform.server_gpus(workspace))
    await platform.renew_server(workspace, await inference_pod(workspace, node, image, address))
    return ""


def _promote(
    workspace: Workspace, chosen: AdapterRecord, by: str, why: str, status: WorkspaceStatus
) -> None:
    adapters = status.adapters
    adapters.add_candidate(chosen)
    adapters.promote(chosen.number, by=by, why=why)
    adapters.keep(retuning_of(workspace).history_limit)
    status.image, status.held_out = chosen.image, chosen.held_out
    if status.tuned:
        changed = {"image": chosen.image, "held_out": chosen.held_out}
        status.tuned = status.tuned.model_copy(update=changed)


def _keep_out(chosen: AdapterRecord, why: str, status: WorkspaceStatus) -> None:
    status.adapters.add_candidate(chosen)
    status.adapters.keep_out(chosen.number, by="server", why=why)
