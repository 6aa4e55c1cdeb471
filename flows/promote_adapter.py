"""Promotion: an adapter serves in the place of the one that did; a rollback is one, too."""

from datetime import datetime
from functools import partial

from prefect import flow
from prefect.runtime import flow_run

from flows.adapter_run import end_candidate, recorded_adapter_run, tell
from flows.run_workspace import serve
from flows.schedules import PROMOTE_FLOW
from flows.served import expect_served
from tasks.contract.adapter_history import AdapterHistory, AdapterRecord, Fate
from tasks.contract.artifacts import Node
from tasks.contract.canary import Canary
from tasks.contract.errors import (
    AdapterNotFound,
    InvalidWorkspace,
    KaitoflowError,
    ServerNotReady,
)
from tasks.contract.retuning import retuning_of
from tasks.contract.status import ConditionType, WorkspaceStatus
from tasks.contract.units import utc_moment
from tasks.contract.workspace import ObjectMeta, Workspace
from tasks.inference.live import live_server, no_key
from tasks.inference.promotion import Tried, try_out
from tasks.inference.promotion import promote as move_name
from tasks.inference.task import await_served
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
    refuse: bool = False,
    rollback: bool = False,
    by: str = "",
    note: str = "",
) -> int:
    """Have one of a Workspace's adapters serve, whatever the gate said of it; its number.

    Args:
        name: of the Workspace.
        namespace: where it is.
        number: of the adapter; empty = the one that waits for a word.
        refuse: keep it out instead, if it waits for a word.
        rollback: have the one serve that did before; number and refuse stay empty then.
        by: who says so.
        note: why, to be read in the history.
    """
    expect_served(ObjectMeta(name=name, namespace=namespace))
    workspace = await find_workspace(namespace, name)
    if rollback and (number or refuse):
        raise AdapterNotFound(
            f"{workspace} was to go back to the adapter before",
            f"{'another was to be refused' if refuse else f'adapter {number} was named'}, too",
            "leave number and refuse empty to roll back, or rollback to have a number serve",
        )
    async with recorded_adapter_run(workspace, PROMOTE_FLOW):
        adapters = (await current_platform().read_status(workspace)).adapters
        chosen: AdapterRecord | None
        if rollback:
            chosen = to_go_back_to(adapters, str(workspace), due=flow_run.scheduled_start_time)
        else:
            chosen = adapters.find(number) if number else adapters.waiting
        if chosen is None:
            raise AdapterNotFound(
                f"an adapter of {workspace} was to be {'refused' if refuse else 'promoted'}",
                "none waits for a word",
                f"name its number (kaitoflow history {name})",
            )
        if refuse:
            await keep_out(workspace, chosen, by=by or "Prefect", why=note or "refused")
        elif chosen != adapters.serving:
            why = note or ("rolled back" if rollback else "promoted")
            await have_serve(workspace, chosen, by=by or "Prefect", why=why)
    return chosen.number


def to_go_back_to(adapters: AdapterHistory, workspace: str, *, due: datetime) -> AdapterRecord:
    """The adapter that served before the one that did when a rollback was due; twice is once.

    Raises: AdapterNotFound: none did.
    """
    serving = adapters.serving
    # What came to serve since is what this run has brought back, before it was killed.
    is_done = serving and serving.decided and due < utc_moment(serving.decided)
    return serving if serving and is_done else adapters.before(workspace)


async def have_serve(workspace: Workspace, chosen: AdapterRecord, *, by: str, why: str) -> None:
    """Promote an adapter at somebody's word, and tell so."""
    how = await promote(workspace, chosen, by=by, why=why)
    name = f"{workspace.metadata.name}@{chosen.number}"
    await tell(workspace, f"promoted {name} by {by}: {why}; {how}")


async def keep_out(workspace: Workspace, chosen: AdapterRecord, *, by: str, why: str) -> None:
    """Have an adapter that waits for a word not serve, and tell so; twice is once.

    Raises: AdapterNotFound: it waits for no word.
    """
    name = f"{workspace.metadata.name}@{chosen.number}"
    if chosen.fate not in (Fate.WAITING, Fate.KEPT_OUT):
        raise AdapterNotFound(
            f"{name} was to be refused",
            f"it waits for no word, it is {chosen.fate}",
            f"see which do (kaitoflow history {workspace.metadata.name}), or roll back",
        )
    await change_status(
        workspace, lambda status: status.adapters.keep_out(chosen.number, by=by, why=why)
    )
    await tell(workspace, f"kept out {name} by {by}: {why}")


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
    platform, name, image = current_platform(), workspace.metadata.name, chosen.image
    if (server := await live_server(workspace)) is None:
        return no_key(workspace)
    try:
        await move_name(
            server,
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


async def try_beside(workspace: Workspace, candidate: AdapterRecord, canary: Canary) -> Tried:
    """What came of a candidate that answers a share of the requests beside what serves.

    Raises: what the server refuses it for; it is kept out then.
    """
    status = await current_platform().read_status(workspace)
    if not (workspace.is_served and status.served_generation is not None):
        return Tried(verdict="passed", reason="nothing serves beside it", requests=0)
    if not status.is_true(ConditionType.INFERENCE_READY):
        await await_served(workspace)
    if (server := await live_server(workspace)) is None:
        return Tried(verdict="stopped", reason=no_key(workspace), requests=0)
    name, image = workspace.metadata.name, candidate.image
    try:
        return await try_out(
            server,
            name=name,
            version=f"{name}@{candidate.number}",
            adapter=f"{image.reference}@{image.digest}",
            canary=canary,
        )
    except ServerNotReady as error:
        return Tried(verdict="stopped", reason=error.found, requests=0)
    except KaitoflowError as error:
        await change_status(workspace, partial(_keep_out, candidate, str(error)))
        raise


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
