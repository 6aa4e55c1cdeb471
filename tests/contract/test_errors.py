"""An error's class is the reason a user reads, and survives the way out of a process."""

import pickle
import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from tasks.contract import errors
from tasks.contract.errors import (
    DatasetUnreadable,
    DownloadFailed,
    InternalError,
    KaitoflowError,
    Refused,
    _tree,
    error_from_reason,
    may_pass,
    reasons,
)
from tasks.contract.explanation import explanations_page
from tasks.contract.podlog import end_with, parse_event


def test_a_verdict_becomes_the_error_it_names() -> None:
    error = error_from_reason("DatasetUnreadable", asked="a", found="no rows", fix="c")
    assert isinstance(error, DatasetUnreadable)
    assert (str(error), error.exit_code) == ("a; no rows; c", 3)


def test_an_unknown_reason_becomes_an_internal_error() -> None:
    assert isinstance(error_from_reason("Nonsense", asked="?", found="", fix=""), InternalError)


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(DownloadFailed("a", "b", "c")))
    assert (type(error), error.args, error.retryable) == (DownloadFailed, ("a", "b", "c"), True)


def test_an_error_keeps_its_parts_apart_whatever_is_in_them() -> None:
    error = DownloadFailed("a; b", "c; d", "e")
    assert (error.problem, error.fix) == ("a; b; c; d", "e")
    assert str(error) == "a; b; c; d; e"


def test_a_part_that_is_empty_is_left_out() -> None:
    assert str(DownloadFailed("", "b", "c")) == "b; c"


# Trying again may help. A class that is not listed is refused or has failed for good: a new one
# has to be put into one of the three by hand.
RETRYABLE = """CloudUnavailable ContainerKilled DownloadFailed GpuNotReady InsufficientCapacity
InsufficientQuota JobFailed KubernetesUnavailable NoOfferLeft NodeClaimDeleted NodeClaimNotReady
NodeDiskPressure NodeLaunchTimedOut NodeLimitReached NodeLost NodeMemoryPressure NodeNotReady
NodeRegistrationTimedOut OfferUnavailable PodEvicted PodPreempted PodRejected QuotaExceeded
RegistryUnavailable SkuNotAvailable Unschedulable VolumeMountFailed""".split()
REFUSED = """AdapterInvalid AdapterMismatch AdapterNotFound AddressForbidden ConfigMapNotFound
DatasetRowsInvalid DatasetUnreachable DatasetUnreadable DeploymentUnusable FolderTaken
GateCommandUnusable ImageReferenceInvalid ImageUnreadable InstanceTypeMissing InvalidPriceTable
InvalidSettings InvalidTuningConfig
InvalidWorkspace JudgeUnusable ModelDoesNotFit ModelNotSupported NameTaken NamespaceNotServed
NoRoomToTune PortInUse RegistryDenied SecretNotFound SecretUnusable ServedDiffers StepUnknown
TagTaken UnknownInstanceType UnknownPreset VolumeUnusable WeightsUnavailable""".split()
FAILED = """BudgetSpent CloudDenied ContainerCrashLoopBackOff ContainerOOMKilled ContainerStartError
DeadlineExceeded DiskFull EngineEnded GateCommandFailed GpuIncompatible HomeUnusable
ImagePullError InternalError JudgeUnavailable KubernetesRefused LeadershipLost LogNotFound
NothingLearned OutOfMemory PodForbidden PodsNotTogether PrefectUnavailable RunInProgress
RunSuperseded ServerNotReady StateUnreadable TrainingDiverged WorkerNameTaken""".split()
EXIT_CODES = (
    [(reason, 75) for reason in RETRYABLE]
    + [(reason, 3) for reason in REFUSED]
    + [(reason, 1) for reason in FAILED]
)


# What the world may mend without an edit of the Workspace: it is looked at again. Not what a person
# has to correct, and not what costs a training each time to find out.
MAY_PASS = """CloudDenied CloudUnavailable ConfigMapNotFound ContainerStartError
DatasetUnreachable DownloadFailed EngineEnded GpuNotReady ImagePullError InsufficientCapacity
InsufficientQuota InvalidPriceTable KubernetesRefused KubernetesUnavailable NameTaken NoOfferLeft
NoRoomToTune NodeClaimDeleted NodeClaimNotReady NodeDiskPressure NodeLaunchTimedOut NodeLimitReached
NodeLost NodeMemoryPressure NodeNotReady NodeRegistrationTimedOut OfferUnavailable PodEvicted
PodForbidden PodPreempted PodRejected QuotaExceeded RegistryDenied RegistryUnavailable
SecretNotFound SecretUnusable ServerNotReady SkuNotAvailable TagTaken Unschedulable
VolumeMountFailed VolumeUnusable WeightsUnavailable""".split()


def test_what_may_pass_by_itself_is_told_from_what_a_person_has_to_edit() -> None:
    assert [name for name in sorted(dict(EXIT_CODES)) if may_pass(name)] == sorted(MAY_PASS)
    assert not may_pass("Nonsense")


def test_every_class_is_in_the_table_once() -> None:
    # Others than the contract's are of the command line, when a test has imported it.
    room = KaitoflowError.__module__
    ours = {name for name, kind in _tree(KaitoflowError).items() if kind.__module__ == room}
    assert sorted(ours - {"KaitoflowError", "Refused", "Failed"}) == sorted(dict(EXIT_CODES))
    assert len(EXIT_CODES) == len(dict(EXIT_CODES))


def test_the_module_s_picture_has_each_class() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", str(errors.__doc__)))
    assert drawn == {"Refused", "Failed", *dict(EXIT_CODES)}


@pytest.mark.parametrize(("reason", "exit_code"), EXIT_CODES)
def test_a_pod_program_ends_with_the_exit_code_of_its_error(
    reason: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Job starts a new pod after 75 only; the verdict says the same to the run."""
    error = pickle.loads(
        pickle.dumps(error_from_reason(reason, asked="asked", found="found", fix="do"))
    )
    assert end_with(error) == exit_code
    verdict = parse_event(capsys.readouterr().out.strip())
    assert verdict == {
        "event": "verdict",
        "reason": reason,
        "asked": "asked",
        "found": "found",
        "fix": "do",
        "retryable": exit_code == 75,
    }
    assert (type(error).__name__, str(error)) == (reason, "asked; found; do")
    assert issubclass(type(error), Refused) == (exit_code == 3)


def test_each_reason_has_a_line_that_says_what_to_do_and_docs_reasons_md_has_it_too() -> None:
    text = files("tasks.contract").joinpath("fixes.yaml").read_text(encoding="utf-8")
    written = yaml.safe_load(text)
    assert [*written] == sorted(reasons())
    assert all(each.endswith(".") for each in written.values())
    page = (Path(__file__).parents[2] / "docs" / "reasons.md").read_text()
    assert page == explanations_page(), "write it anew: see explanations_page"
