"""`make gpu-check` keeps what it finds, whatever a part of it ends with."""

import json
from pathlib import Path

import pytest
import torch

from tests.gpu.check import Check, Found, LackError, compiler, on_all_gpus


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check(is_dry=True, work=tmp_path, written=tmp_path / "build" / "f.json", budget_s=100)


def kept(check: Check) -> Found:
    return {
        name: {**told, "seconds": 0} for name, told in json.loads(check.written.read_text()).items()
    }


def broken(_check: Check) -> Found:
    raise RuntimeError("no such kernel")


def lacking(_check: Check) -> Found:
    raise LackError("no second GPU")


def test_a_part_that_fails_or_lacks_something_is_told_and_the_next_one_runs(check: Check) -> None:
    check.part("first", broken)
    check.part("second", lacking)
    check.part("third", lambda _check: {"tokens_per_s": 7})
    assert kept(check) == {
        "first": {"failed": "RuntimeError: no such kernel", "seconds": 0},
        "second": {"skipped": "no second GPU", "seconds": 0},
        "third": {"tokens_per_s": 7, "seconds": 0},
    }


def test_a_part_for_which_no_time_is_left_is_skipped(check: Check) -> None:
    check.part("long", broken, least_s=200)
    assert kept(check)["long"]["skipped"].endswith(" s are left, and it takes 200")


def test_what_needs_a_second_gpu_is_skipped_by_name_without_one(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check.part("shared", on_all_gpus)
    assert kept(check)["shared"]["skipped"] == "1 GPU(s)"


def test_what_needs_a_gpu_is_skipped_by_name_without_one(check: Check) -> None:
    check.part("compiler", compiler)
    assert kept(check)["compiler"]["skipped"] == "no GPU"
