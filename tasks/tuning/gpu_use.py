"""How long a run has held GPUs for an adapter, and how much of that they did not train. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from tasks.contract.held_cost import HeldMachine
from tasks.contract.programs.tuning import TuningResult
from tasks.contract.status import WorkspaceStatus
from tasks.contract.steps import StepName
from tasks.contract.units import utc_moment
from tasks.platform.base import Pod


def gpu_use(status: WorkspaceStatus, pod: Pod, result: TuningResult, now: datetime) -> str:
    """The GPU-seconds until now, and those outside of the training's steps; "" without GPUs.

    A machine that was made for the run is held from its claim on. Where none was, the pod holds its
    GPUs from its first container on: from the weights, which are a step.
    """
    used = pod.gpus * pod.nodes
    began = _began(status, StepName.PROVISION)
    machines = [each for each in status.cost.machines if began and _is_claimed(each, began)]
    held_s = _held_s(machines, now)
    if not held_s and (began := _began(status, StepName.WEIGHTS)):
        held_s = used * (now - began).total_seconds()
    if not (used and held_s and result.tokens_per_s):
        return ""
    trained_s = min(held_s, used * result.tokens / result.tokens_per_s)
    idle_s = held_s - trained_s
    return (
        f"{held_s:,.0f} GPU-seconds held by then, {idle_s:,.0f} of them "
        f"({idle_s / held_s:.0%}) not training"
    )


def _is_claimed(machine: HeldMachine, began: datetime) -> bool:
    return not machine.until and machine.gpus > 0 and utc_moment(machine.since) >= began


def _held_s(machines: Sequence[HeldMachine], now: datetime) -> float:
    return sum(each.gpus * (now - utc_moment(each.since)).total_seconds() for each in machines)


def _began(status: WorkspaceStatus, name: StepName) -> datetime | None:
    """When the run's step of that name began, to the second."""
    step = next((each for each in status.steps if each.name == name and each.finished), None)
    if step is None:
        return None
    began = utc_moment(step.finished) - timedelta(seconds=step.seconds)
    return began.replace(microsecond=0)
