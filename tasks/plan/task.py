"""Steps `plan` and `check`: what the run will do and need, and whether it may."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.contract.artifacts import Check, Plan
from tasks.contract.errors import KaitoflowError, error_from_reason
from tasks.contract.status import ConditionType, WorkspaceStatus
from tasks.contract.steps import StepName
from tasks.contract.workspace import Workspace
from tasks.nodes.current import current_holder_lister, current_node_lister
from tasks.plan.checks import acceptance, make_plan
from tasks.plan.look import look
from tasks.plan.registries import look_for_adapters, look_for_free_number
from tasks.plan.rehearsal import rehearse
from tasks.platform.current import current_platform
from tasks.settings import settings
from tasks.steps import change_status

logger = logging.getLogger(__name__)


@task(
    name=StepName.PLAN.value,
    task_run_name=f"{StepName.PLAN} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def plan_workspace(workspace: Workspace, *, push: bool, port: int | None) -> Plan:
    """What the run needs, and every check's verdict, as a table in the UI."""
    return await _plan(workspace, push=push, port=port, is_candidate=False)


@task(
    name=StepName.PLAN.value,
    task_run_name=f"{StepName.PLAN} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def plan_candidate(workspace: Workspace, *, push: bool) -> Plan:
    """What another adapter beside the one that serves needs, once every check has passed.

    Raises: the typed error of the first check that failed, with every failed line.
    """
    plan = await _plan(workspace, push=push, port=None, is_candidate=True)
    if plan.refused:
        raise _refusal(plan.refused)
    return plan


async def find_adapters_again(workspace: Workspace) -> None:
    """Tell of the Workspace's adapters from what their images say, where its status was lost.

    So what was tuned is not tuned again, and what was promoted serves on. A new Workspace has none.
    """
    platform = current_platform()
    if not (platform.is_cluster and workspace.tuning and workspace.tuning.output.image):
        return
    status = await platform.read_status(workspace)
    # An image without the rest is of a run that was killed: this one goes on from its pod.
    if status.tuned or status.image or status.adapters.records:
        return
    world = await platform.look_around(workspace, push=True, port=None)
    try:
        found = await look_for_adapters(workspace, world, settings())
    except KaitoflowError as error:
        logger.info("whether adapters of before are in the registry was not seen: %s", error)
        return
    if found:
        served = await platform.served_images(workspace)
        now = datetime.now(UTC)
        await change_status(
            workspace, lambda status: status.find_adapters_again(found, served=served, now=now)
        )


async def free_number(workspace: Workspace, first: int, *, push: bool) -> int:
    """The first number from this one on whose image was neither pushed nor kept by anybody yet."""
    world = await current_platform().look_around(workspace, push=push, port=None)
    return await look_for_free_number(workspace, first, world, settings())


async def _plan(workspace: Workspace, *, push: bool, port: int | None, is_candidate: bool) -> Plan:
    platform = current_platform()
    world = await platform.look_around(workspace, push=push, port=port)
    found = await look(
        workspace,
        world,
        settings(),
        list_nodes=current_node_lister(),
        # A look from before its own server came would have it wait for the GPU of that server.
        list_holders=current_holder_lister(anew=world.served_generation is not None),
        rehearse=partial(rehearse, workspace, platform) if platform.is_cluster else None,
    )
    plan = make_plan(workspace, world, found, is_candidate=is_candidate)
    rows = [check.model_dump(include={"name", "result", "detail", "fix"}) for check in plan.checks]
    await acreate_table_artifact(rows, key="plan", description=_description(workspace, plan))
    return plan


def _description(workspace: Workspace, plan: Plan) -> str:
    verdict = "refused" if plan.refused else "accepted"
    unchecked = f" Not checked: {', '.join(plan.unchecked)}." if plan.unchecked else ""
    return f"Plan of {workspace}: {verdict}.{unchecked}"


@task(
    name=StepName.CHECK.value,
    task_run_name=f"{StepName.CHECK} {{workspace}}",
    cache_policy=NO_CACHE,
)
async def check_workspace(workspace: Workspace, plan: Plan) -> None:
    """Accept the Workspace, or refuse it before anything is spent.

    Raises: the typed error of the first check that failed, with every failed line.
    """
    if not plan.refused:
        await change_status(workspace, partial(_accept, message=acceptance(plan)))
        return
    raise _refusal(plan.refused)


def _refusal(failed: Sequence[Check]) -> KaitoflowError:
    """What a plan refuses for, also where the world is at fault: nothing was begun."""
    first = failed[0]
    found, fix = f"{first.name}: {first.detail}", first.fix
    if len(failed) > 1:
        found, fix = "\n".join(f"{c.name}: {c.detail}; {c.fix}" for c in failed), ""
    error = error_from_reason(first.reason, asked="", found=found, fix=fix)
    error.refuses = True
    return error


def _accept(status: WorkspaceStatus, *, message: str) -> None:
    status.set_condition(ConditionType.ACCEPTED, status="True", reason="Accepted", message=message)
