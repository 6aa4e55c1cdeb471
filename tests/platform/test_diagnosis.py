"""A pod's states become a reason and a message with the fix; Kubernetes' own words go in."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.contract import errors
from tasks.platform.diagnosis import (
    Diagnosis,
    describe_waiting,
    diagnose_job,
    diagnose_pod,
    diagnosed_error,
)
from tasks.platform.passed_on import QUEUE_LABEL
from tests.platform.pods import (
    IMAGE,
    Object,
    container,
    ended,
    event,
    job,
    new_pod,
    node,
    pod,
    status,
    unschedulable_pod,
    waiting_pod,
)

NOON = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
KUBERNETES_SAYS = yaml.safe_load(Path(__file__).with_name("kubernetes_says.yaml").read_text())
NOT_FOUND = (
    f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}": '
    f"{IMAGE}: not found"
)
NO_SECRET = 'MountVolume.SetUp failed for volume "docker-config" : secret "push" not found'


def each(section: str) -> pytest.MarkDecorator:
    """Run a test with every case of a section of kubernetes_says.yaml."""
    return pytest.mark.parametrize("case", KUBERNETES_SAYS[section], ids=lambda c: c["message"])


def expect(diagnosis: Diagnosis | None, case: Object) -> None:
    """The verdict is the case's, in three parts of which the last is the fix."""
    assert diagnosis
    asked, found, fix = diagnosis.asked, diagnosis.found, diagnosis.fix
    assert asked
    assert diagnosis.reason == case["error"]
    assert case.get("said", "") in found
    assert case.get("fix", "") in fix
    assert diagnosis.is_final == case.get("final", diagnosis.is_final)


def reason(diagnosis: Diagnosis | None) -> tuple[str, bool]:
    """The reason, and whether it is final."""
    assert diagnosis
    return diagnosis.reason, diagnosis.is_final


@each("unschedulable")
def test_a_pod_without_a_node_says_how_many_nodes_have_which_fault(case: Object) -> None:
    verdict = {"error": "Unschedulable", "final": False}
    expect(diagnose_pod(unschedulable_pod(case["message"])), case | verdict)


def test_a_pod_without_a_node_says_what_it_asks_for() -> None:
    terms = [{"matchExpressions": [{"key": "apps", "operator": "In", "values": ["phi-3"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    asked: Object = {"requests": {"cpu": "2", "memory": "16Gi"}, "limits": {"nvidia.com/gpu": "1"}}
    state = unschedulable_pod(
        "0/1 nodes are available: 1 Too many pods.",
        initContainers=[container("tune", **asked)],
        containers=[container("push-image", requests={"cpu": "500m", "memory": "1Gi"})],
        affinity={"nodeAffinity": required},
    )
    said = "asks for a node with apps=phi-3 and free 1 nvidia.com/gpu, 2 cpu, 16Gi memory; "
    diagnosis = diagnose_pod(state)
    assert diagnosis
    assert said in diagnosis.message


def test_requests_of_containers_that_run_together_are_added() -> None:
    both = [container(name, requests={"cpu": "1500m"}) for name in ("serve", "metrics")]
    state = unschedulable_pod("0/1 nodes are available: 1 Insufficient cpu.", containers=both)
    diagnosis = diagnose_pod(state)
    assert diagnosis
    assert "any node with free 3 cpu" in diagnosis.message


@each("pulls")
def test_an_image_that_does_not_come_says_why(case: Object) -> None:
    expect(diagnose_pod(waiting_pod("ErrImagePull", case["message"])), case)


@each("pulls")
def test_an_image_that_does_not_come_says_why_between_two_tries(case: Object) -> None:
    said = f'Back-off pulling image "{IMAGE}": ErrImagePull: {case["message"]}'
    expect(diagnose_pod(waiting_pod("ImagePullBackOff", said)), case)


def test_what_one_layer_of_the_node_repeats_of_another_is_left_out() -> None:
    diagnosis = diagnose_pod(waiting_pod("ErrImagePull", NOT_FOUND))
    assert diagnosis
    assert diagnosis.message.startswith(
        f"init container tune of pod phi-3-tuning-x7k2p asks for image {IMAGE}; "
        f"the registry has no such image ({IMAGE}: not found); "
    )


def test_an_older_kubelets_back_off_is_explained_by_its_event() -> None:
    said = f'Failed to pull image "{IMAGE}": rpc error: code = NotFound desc = {NOT_FOUND}'
    state = waiting_pod("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"')
    wanted = {"error": "ImagePullError", "said": f"no such image ({IMAGE}: not found)"}
    expect(diagnose_pod(state, events=[event("Failed", said)]), wanted)


def test_a_pull_secret_that_is_missing_is_named() -> None:
    said = (
        "Unable to retrieve some image pull secrets (regcred); attempting to pull the image may "
        "not succeed."
    )
    state = waiting_pod("ErrImagePull", "401 Unauthorized")
    wanted = {"error": "ImagePullError", "said": "there is no Secret regcred to pull with"}
    expect(diagnose_pod(state, events=[event("FailedToRetrieveImagePullSecret", said)]), wanted)


@each("unpullable")
def test_an_image_that_can_never_be_pulled_is_final(case: Object) -> None:
    verdict = {"error": "ImagePullError", "final": True}
    expect(diagnose_pod(waiting_pod(case["reason"], case["message"])), case | verdict)


@each("starts")
def test_a_container_that_is_not_started_says_why(case: Object) -> None:
    expect(diagnose_pod(waiting_pod(case["reason"], case["message"])), case)


def test_a_start_that_failed_for_good_is_no_plain_end() -> None:
    said = 'exec: "pythn": executable file not found in $PATH: unknown'
    states = [status("push-image", terminated=ended(128, "StartError", said))]
    assert reason(diagnose_pod(pod(phase="Failed", main=states))) == ("ContainerStartError", True)


@pytest.mark.parametrize(
    ("field", "name", "limit"),
    [
        ("init", "tune", "may use 16Gi of memory; it was killed at that limit"),
        ("main", "push-image", "no memory limit of its own; it was killed when its node had no"),
    ],
)
def test_a_container_killed_for_its_memory_names_its_limit(
    field: str, name: str, limit: str
) -> None:
    states: dict[str, Any] = {field: [status(name, terminated=ended(137, "OOMKilled"))]}
    diagnosis = diagnose_pod(pod(phase="Failed", **states))
    assert reason(diagnosis) == ("ContainerOOMKilled", True)
    assert diagnosis
    assert limit in diagnosis.message


@each("last_words")
@pytest.mark.parametrize("in_log", [False, True])
def test_a_programs_last_words_are_read_in_its_message_and_its_log(
    case: Object, in_log: bool
) -> None:
    words = f"step 3\nTraceback (most recent call last):\n{case['message']}\nbye"
    states = [status("tune", terminated=ended(1, message=None if in_log else words))]
    diagnosis = diagnose_pod(pod(phase="Failed", init=states), log_tail=words if in_log else "")
    expect(diagnosis, case | {"said": case["message"], "final": True})


def test_a_container_that_crashes_again_and_again_says_how_often_and_how() -> None:
    last = ended(1, message="ValueError: no such engine")
    state = waiting_pod("CrashLoopBackOff", "back-off", restart="Always", restarts=3, last=last)
    said = "it ended 3 times, the last time with exit code 1: ValueError: no such engine"
    wanted = {"error": "ContainerCrashLoopBackOff", "said": said, "final": True}
    expect(diagnose_pod(state), wanted)


@pytest.mark.parametrize(
    ("error", "last"),
    [
        ("ContainerCrashLoopBackOff", ended(1)),
        ("ContainerOOMKilled", ended(137, "OOMKilled")),
        ("OutOfMemory", ended(1, message="CUDA out of memory.")),
    ],
)
def test_the_first_crash_of_a_container_that_starts_again_is_not_final(
    error: str, last: Object
) -> None:
    state = waiting_pod("CrashLoopBackOff", "back-off 10s", restart="Always", restarts=1, last=last)
    assert reason(diagnose_pod(state)) == (error, False)


@pytest.mark.parametrize("last", [ended(137, "OOMKilled"), ended(1, message="CUDA out of memory")])
def test_a_container_that_is_ready_again_is_well(last: Object) -> None:
    ready = status("push-image", restarts=1, last=last, running={})
    well = pod(phase="Running", main=[ready | {"ready": True}], restart="Always")
    assert diagnose_pod(well) is None


@pytest.mark.parametrize(
    ("code", "said"), [(1, "exit code 1"), (137, "SIGKILL"), (143, "it was asked to end")]
)
def test_an_end_without_a_known_cause_gives_its_exit_code(code: int, said: str) -> None:
    failed = pod(phase="Failed", init=[status("tune", terminated=ended(code))])
    expect(diagnose_pod(failed), {"error": "ContainerKilled", "said": said, "final": True})


@each("evictions")
def test_an_evicted_pod_says_what_ran_out(case: Object) -> None:
    killed = [status("tune", terminated=ended(137))]
    evicted = pod(phase="Failed", init=killed, reason="Evicted", message=case["message"])
    expect(diagnose_pod(evicted), case)


@each("disruptions")
def test_a_pod_that_has_to_go_says_for_whom(case: Object) -> None:
    target = {"status": "True", "reason": case["reason"], "message": case["message"]}
    running = [status("tune", running={})]
    going = pod(phase="Running", init=running, conditions={"DisruptionTarget": target})
    expect(diagnose_pod(going), case | {"said": case["message"], "final": True})


@each("given_up")
def test_a_pod_that_its_node_gave_up_says_why(case: Object) -> None:
    failed = pod(phase="Failed", reason=case["reason"], message=case["message"])
    expect(diagnose_pod(failed), case | {"said": case["message"], "final": True})


@each("absent_nodes")
def test_a_node_that_is_away_may_come_back(case: Object) -> None:
    away = node(Ready={key: case[key] for key in ("status", "reason", "message")})
    running = pod(phase="Running", init=[status("tune", running={})])
    expect(diagnose_pod(running, node=away), case | {"said": case["message"], "final": False})


def test_a_pod_on_a_ready_node_is_well() -> None:
    running = pod(phase="Running", init=[status("tune", running={})])
    assert diagnose_pod(running, node=node(Ready={"status": "True"})) is None


@each("unprepared")
def test_a_pod_that_cannot_be_prepared_says_what_is_missing(case: Object) -> None:
    said = event(case["reason"], case["message"])
    expect(diagnose_pod(new_pod(), events=[said]), case)


def test_what_the_kubelet_asks_for_again_is_no_fault() -> None:
    said = 'MountVolume.SetUp failed for volume "x" : failed to sync secret cache: timed out'
    assert diagnose_pod(new_pod(), events=[event("FailedMount", said)]) is None


def test_a_mount_that_failed_before_the_sandbox_was_made_is_overcome() -> None:
    prepared = pod(conditions={"PodReadyToStartContainers": {"status": "True"}})
    assert diagnose_pod(prepared, events=[event("FailedMount", NO_SECRET)]) is None


@pytest.mark.parametrize(("minutes", "counts"), [(1, True), (10, False)])
def test_a_warning_that_is_not_repeated_is_overcome(minutes: int, counts: bool) -> None:
    now = NOON + timedelta(minutes=minutes)
    diagnosis = diagnose_pod(new_pod(), events=[event("FailedMount", NO_SECRET)], now=now)
    assert bool(diagnosis) == counts


def test_of_two_warnings_the_newer_one_counts() -> None:
    said = 'MountVolume.SetUp failed for volume "c" : configmap "c" not found'
    newer = event("FailedMount", said, at="2026-11-24T10:00:05Z")
    diagnosis = diagnose_pod(new_pod(), events=[event("FailedMount", NO_SECRET), newer])
    assert reason(diagnosis) == ("ConfigMapNotFound", True)


def test_events_of_other_pods_are_passed_over() -> None:
    other = event("FailedMount", NO_SECRET, uid="pod-2")
    assert diagnose_pod(new_pod(), events=[other]) is None


def test_a_containers_fault_comes_before_its_nodes() -> None:
    away = node(Ready={"status": "Unknown", "reason": "NodeStatusUnknown", "message": "silent"})
    diagnosis = diagnose_pod(waiting_pod("ErrImagePull", NOT_FOUND), node=away)
    assert reason(diagnosis) == ("ImagePullError", True)


@pytest.mark.parametrize("phase", ["Pending", "Running", "Succeeded"])
def test_a_pod_that_is_well_has_no_diagnosis(phase: str) -> None:
    assert diagnose_pod(pod(phase=phase)) is None


@each("refused")
def test_a_job_whose_pod_is_refused_says_by_which_rule(case: Object) -> None:
    said = case["message"].removeprefix("Error creating: ")
    diagnosis = diagnose_job(job(), [event("FailedCreate", case["message"], uid="job-1")])
    expect(diagnosis, case | {"said": said})


def test_a_stateful_set_whose_pod_is_refused_says_by_which_rule() -> None:
    said = (
        'create Pod phi-3-0 in StatefulSet phi-3 failed error: pods "phi-3-0" is forbidden: '
        'violates PodSecurity "baseline:latest": hostPath volumes (volume "weights")'
    )
    server = job() | {"kind": "StatefulSet"}
    diagnosis = diagnose_job(server, [event("FailedCreate", said, uid="job-1")])
    assert diagnosis
    assert diagnosis.message.startswith(
        "StatefulSet phi-3-tuning was asked to make its pod; "
        'the API server refuses the pod: pods "phi-3-0" is forbidden: violates PodSecurity'
    )


@pytest.mark.parametrize("counts", [{"active": 1}, {"succeeded": 1}, {"replicas": 1}])
def test_a_refusal_before_there_was_a_pod_is_overcome(counts: dict[str, int]) -> None:
    past = event("FailedCreate", "Error creating: exceeded quota: team", uid="job-1")
    assert diagnose_job(job(**counts), [past]) is None


@each("failed_jobs")
def test_a_job_that_has_given_up_says_so(case: Object) -> None:
    failed = {key: case[key] for key in ("reason", "message")} | {"status": "True"}
    diagnosis = diagnose_job(job(failed | {"type": "Failed"}, failed=1))
    expect(diagnosis, case | {"said": case["message"], "final": True})


def test_a_new_job_has_no_diagnosis() -> None:
    assert diagnose_job(job()) is None


def test_a_diagnosis_becomes_the_error_of_its_name() -> None:
    diagnosis = diagnose_pod(waiting_pod("ErrImagePull", NOT_FOUND))
    assert diagnosis
    error = diagnosed_error(diagnosis)
    assert isinstance(error, errors.ImagePullError)
    assert (str(error), error.retryable) == (diagnosis.message, False)


SANDBOX: Object = {"PodReadyToStartContainers": {"status": "True"}}
GATED: Object = {"PodScheduled": {"status": "False", "reason": "SchedulingGated"}}
FETCHED = status("fetch-dataset", terminated=ended(0, "Completed"))
TUNED = status("tune", terminated=ended(0, "Completed"))


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("waiting for its pod", {}),
        ("waiting for a node", pod(node=None)),
        ("held back by a scheduling gate", pod(node=None, conditions=GATED)),
        ("preparing volumes and network on node gpu-1", new_pod()),
        (f"pulling image {IMAGE}", pod(conditions=SANDBOX)),
        ("init container fetch-dataset running", pod(init=[status("fetch-dataset", running={})])),
        ("init container tune starting", pod(init=[FETCHED, status("tune", waiting={})])),
        ("init container tune running", pod(init=[FETCHED, status("tune", running={})])),
        (f"pulling image {IMAGE} (ImagePullBackOff)", waiting_pod("ImagePullBackOff", "Back-off")),
        (
            "init container tune starting again",
            waiting_pod("CrashLoopBackOff", "back-off", last=ended(1)),
        ),
        (
            "container push-image running, not ready yet",
            pod(init=[FETCHED, TUNED], main=[status("push-image", running={})]),
        ),
        ("succeeded", pod(phase="Succeeded")),
        ("ending", pod() | {"metadata": {"name": "x", "deletionTimestamp": "now"}}),
    ],
)
def test_a_waiting_pod_is_described_in_a_few_words(said: str, state: Object) -> None:
    assert describe_waiting(state) == said


@pytest.mark.parametrize(
    ("labels", "suspend", "said"),
    [
        ({}, False, "waiting for its pod"),
        ({}, True, "suspended, waiting for somebody to resume its Job (spec.suspend: false)"),
        ({QUEUE_LABEL: "gpus"}, True, "suspended, waiting for room in queue gpus"),
    ],
)
def test_a_suspended_job_waits_for_its_queue_or_for_a_person(
    labels: Object, suspend: bool, said: str
) -> None:
    made = {"metadata": {"name": "job", "labels": labels}, "spec": {"suspend": suspend}}
    assert describe_waiting({}, made) == said
    assert diagnose_job(made) is None


def test_a_pod_that_its_queue_holds_back_names_the_queue() -> None:
    held = pod(node=None, conditions=GATED)
    held["metadata"]["labels"] = {QUEUE_LABEL: "gpus"}
    assert describe_waiting(held) == "waiting for room in queue gpus"
