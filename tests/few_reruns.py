"""A pytest plugin: with CI=true a test that fails is run once more, and what passed then is told.

Tests here wait for real servers on machines that others load, so that one of thousands may fail by
chance. What failed once stands in the last lines with its reason, as a fault to be found: it may be
a race of the product's own. Where more than a few failed it is no chance, and the run fails.
"""

import os

import pytest

MOST_RERUN = 3


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Have pytest-rerunfailures run what fails once more."""
    if os.environ.get("CI") == "true":
        config.option.reruns = 1


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where too many passed only when they were run again."""
    if len(_failed_once(session.config)) > MOST_RERUN and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell which tests failed once, and why."""
    if failed_once := _failed_once(terminalreporter.config):
        terminalreporter.section(f"failed once: {len(failed_once)}, at most {MOST_RERUN} may")
        for report in failed_once:
            terminalreporter.line(f"FAILED ONCE {report.nodeid}")
            terminalreporter.line(report.longreprtext)


def _failed_once(config: pytest.Config) -> list[pytest.TestReport]:
    """The reports of tests that were run again, each with its first failure."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    return list(terminal.stats.get("rerun", [])) if terminal else []
