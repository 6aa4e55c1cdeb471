"""Each container's log is a step's, whichever pod it is in."""

from typing import Any

import pytest

from tasks.contract.steps import CANDIDATE, INFERENCE, TAGGING, TUNING, StepName, pods_of, step_of
from tasks.contract.workspace import Workspace, parse_workspace
from tests.builders import tuning_workspace


def serving(**inference: Any) -> Workspace:
    manifest = {"metadata": {"name": "served"}, "inference": inference}
    return parse_workspace(manifest, source="test")


TUNED = tuning_workspace()
SERVED = serving(preset={"name": "smollm2-135m-instruct"})
OWN = serving(template={"spec": {}})


@pytest.mark.parametrize(
    ("workspace", "pod", "container", "step"),
    [
        (TUNED, TUNING, "fetch-weights", StepName.WEIGHTS),
        (TUNED, TUNING, "pull-dataset", StepName.DOWNLOAD),
        (TUNED, TUNING, "fetch-dataset", StepName.DOWNLOAD),
        (TUNED, TUNING, "tune", StepName.TUNE),
        (TUNED, TUNING, "push-image", StepName.PUSH),
        (TUNED, TUNING, "istio-proxy", None),
        (TUNED, CANDIDATE, "tune", StepName.TUNE),
        (TUNED, CANDIDATE, "fetch-serving", StepName.EVALUATE),
        (TUNED, CANDIDATE, "measure", StepName.EVALUATE),
        (TUNED, CANDIDATE, "istio-proxy", None),
        (TUNED, TAGGING, "tag-image", StepName.PUSH),
        (TUNED, TAGGING, "istio-proxy", None),
        (TUNED, INFERENCE, "fetch-weights", StepName.WEIGHTS_AGAIN),
        (TUNED, INFERENCE, "pull-0", StepName.PULL_ADAPTERS),
        (TUNED, INFERENCE, "serve", StepName.DEPLOY),
        (TUNED, INFERENCE, "istio-proxy", None),
        (SERVED, INFERENCE, "fetch-weights", StepName.WEIGHTS),
        (OWN, INFERENCE, "fetch-weights", StepName.DEPLOY),
        (OWN, INFERENCE, "whatever", StepName.DEPLOY),
    ],
)
def test_a_container_belongs_to_a_step_or_is_somebody_else_s(
    workspace: Workspace, pod: str, container: str, step: StepName | None
) -> None:
    assert step_of(container, workspace, pod=pod) == step


def test_what_is_tuned_its_candidates_and_its_server_have_pods_of_their_own() -> None:
    assert pods_of(TUNED) == (TUNING, CANDIDATE, TAGGING, INFERENCE)
    assert pods_of(SERVED) == (INFERENCE,)


def test_the_steps_of_the_flow_itself_have_no_log_of_a_container() -> None:
    without = [step for step in StepName if not step.has_log]
    assert without == [StepName.PLAN, StepName.CHECK, StepName.PROVISION]
