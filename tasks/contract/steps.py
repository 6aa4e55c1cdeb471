"""The names of a run's steps, one vocabulary for status, logs, Prefect's tasks and `--step`.

Containers have names of their own, which Jobs of running clusters carry; `step_of` says which
step's log a container's is.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # `kaitoflow --help` names the steps, and is to answer without what the Workspace needs.
    from tasks.contract.workspace import Workspace

TUNING, CANDIDATE, TAGGING, INFERENCE = "tuning", "candidate", "tagging", "inference"
# In the order in which a Workspace has them.
PODS = (TUNING, CANDIDATE, TAGGING, INFERENCE)
FETCH_WEIGHTS, FETCH_DATASET, TUNE, PUSH, SERVE = (
    "fetch-weights",
    "fetch-dataset",
    "tune",
    "push-image",
    "serve",
)
FETCH_START, FETCH_EVALUATION = "fetch-start", "fetch-evaluation"
PULL_PREFIX = "pull-"
PULL_DATASET = f"{PULL_PREFIX}dataset"
PULL_ALL = f"{PULL_PREFIX}adapters"
FETCH_SERVING, MEASURE, SCORE = "fetch-serving", "measure", "score"
TAG = "tag-image"
# Of no run: what one machine does when an adapter is to be merged.
MERGE = "merge"


class StepName(StrEnum):
    """A step of a run, in the order in which they come; `evaluate` is of a retuning."""

    PLAN = "plan"
    CHECK = "check"
    PROVISION = "provision"
    WEIGHTS = "weights"
    DOWNLOAD = "download"
    TUNE = "tune"
    PUSH = "push"
    EVALUATE = "evaluate"
    WEIGHTS_AGAIN = "weights-again"
    PULL_ADAPTERS = "pull-adapters"
    DEPLOY = "deploy"

    @property
    def has_log(self) -> bool:
        """Whether it runs in containers; the others run in the flow itself."""
        return self not in (StepName.PLAN, StepName.CHECK, StepName.PROVISION)


_OF_TUNING = {
    FETCH_WEIGHTS: StepName.WEIGHTS,
    FETCH_START: StepName.DOWNLOAD,
    PULL_DATASET: StepName.DOWNLOAD,
    FETCH_DATASET: StepName.DOWNLOAD,
    FETCH_EVALUATION: StepName.DOWNLOAD,
    TUNE: StepName.TUNE,
    PUSH: StepName.PUSH,
}
_OF_CANDIDATE = {
    **_OF_TUNING,
    FETCH_SERVING: StepName.EVALUATE,
    MEASURE: StepName.EVALUATE,
    SCORE: StepName.EVALUATE,
}


def step_of(container: str, workspace: "Workspace", *, pod: str) -> StepName | None:
    """The step that a container of the pod belongs to; None: it is not one that a run made."""
    if pod == TUNING:
        return _OF_TUNING.get(container)
    if pod == CANDIDATE:
        return _OF_CANDIDATE.get(container)
    if pod == TAGGING:
        return StepName.PUSH if container == TAG else None
    if workspace.inference and workspace.inference.template:
        return StepName.DEPLOY  # the names in a pod template are the user's own
    if container == FETCH_WEIGHTS:
        return StepName.WEIGHTS_AGAIN if workspace.tuning else StepName.WEIGHTS
    if container.startswith(PULL_PREFIX):
        return StepName.PULL_ADAPTERS
    return StepName.DEPLOY if container == SERVE else None


def pods_of(workspace: "Workspace") -> tuple[str, ...]:
    """The pods that runs of the Workspace may make, in their order."""
    return PODS if workspace.tuning else (INFERENCE,)
