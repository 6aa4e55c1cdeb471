"""An error's class is the reason a user reads, and survives the way out of a process."""

import pickle

import pytest

from tasks.contract.errors import (
    DatasetUnreadable,
    DownloadFailed,
    InternalError,
    KaitoflowError,
    Refused,
    _tree,
    error_from_reason,
)
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
InsufficientQuota JobFailed KubernetesUnavailable NoOfferLeft NodeClaimNotReady NodeDiskPressure
NodeLaunchTimedOut NodeLimitReached NodeLost NodeMemoryPressure NodeNotReady
NodeRegistrationTimedOut OfferUnavailable PodEvicted PodPreempted PodRejected QuotaExceeded
RegistryUnavailable SkuNotAvailable Unschedulable VolumeMountFailed""".split()
REFUSED = """AdapterInvalid AdapterMismatch AddressForbidden ConfigMapNotFound DatasetRowsInvalid
DatasetUnreachable DatasetUnreadable DeploymentUnusable ImageReferenceInvalid ImageUnreadable
InvalidPriceTable InvalidSettings InvalidTuningConfig InvalidWorkspace ModelDoesNotFit NameTaken
PortInUse RegistryDenied SecretNotFound StepUnknown UnknownInstanceType UnknownPreset
WeightsUnavailable""".split()
FAILED = """CloudDenied ContainerCrashLoopBackOff ContainerOOMKilled ContainerStartError
DeadlineExceeded DiskFull GpuIncompatible HomeUnusable ImagePullError InternalError
KubernetesRefused LeadershipLost LogNotFound OutOfMemory PodForbidden PrefectUnavailable
RunInProgress RunSuperseded ServerNotReady StateUnreadable TrainingDiverged
WorkerNameTaken""".split()
EXIT_CODES = (
    [(reason, 75) for reason in RETRYABLE]
    + [(reason, 3) for reason in REFUSED]
    + [(reason, 1) for reason in FAILED]
)


def test_every_class_is_in_the_table_once() -> None:
    # Others than the contract's are of the command line, when a test has imported it.
    room = KaitoflowError.__module__
    ours = {name for name, kind in _tree(KaitoflowError).items() if kind.__module__ == room}
    assert sorted(ours - {"KaitoflowError", "Refused", "Failed"}) == sorted(dict(EXIT_CODES))
    assert len(EXIT_CODES) == len(dict(EXIT_CODES))


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
