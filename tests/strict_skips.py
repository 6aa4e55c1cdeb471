"""A pytest plugin: with CI=true, a skipped test fails unless its reason is allowed.

A test that is skipped because something was not installed proves nothing and looks green. The
reasons that are acceptable stand in pyproject.toml (`allowed_skips`), as regular expressions.
"""

import os
import re
from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the list of acceptable reasons."""
    parser.addini("allowed_skips", "reasons for which a test may be skipped in CI", type="linelist")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one."""
    report = yield
    if not hasattr(report, "wasxfail"):  # an expected failure reports itself as skipped
        _refuse_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a skipped module into an error."""
    report = yield
    _refuse_skip(report, collector.config)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if not report.skipped or os.environ.get("CI") != "true":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if any(re.search(allowed, reason) for allowed in config.getini("allowed_skips")):
        return
    report.outcome = "failed"
    report.longrepr = (
        f"no test is skipped in CI; this one was ({reason}); install what it needs, or add the "
        "reason to allowed_skips in pyproject.toml"
    )
