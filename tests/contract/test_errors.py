"""An error's class is the reason a user reads, and survives the way out of a process."""

import pickle

from tasks.contract.errors import (
    DatasetUnreadable,
    DownloadFailed,
    InternalError,
    error_from_reason,
)


def test_a_verdict_becomes_the_error_it_names() -> None:
    error = error_from_reason("DatasetUnreadable", "no rows")
    assert isinstance(error, DatasetUnreadable)
    assert (str(error), error.exit_code) == ("no rows", 3)


def test_an_unknown_reason_becomes_an_internal_error() -> None:
    assert isinstance(error_from_reason("Nonsense", "?"), InternalError)


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(DownloadFailed("a; b; c")))
    assert (type(error), str(error), error.retryable) == (DownloadFailed, "a; b; c", True)
