"""Freed memory is the system's again, as glibc can be told."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# 64 blocks of 4 MiB that are kept, as for a backward pass, beside 64 that are freed. Prints what
# the process has beside the kept ones: up to 256 MiB where nothing is done.
PROGRAM = """
import psutil, torch
from tasks.tuning.pod.heap import give_back_freed_blocks, give_back_holes

{before}
at_first = psutil.Process().memory_info().rss
kept = []
for _ in range(64):
    block = torch.ones(2**20)
    kept.append(torch.ones(2**20))
    del block
{after}
print((psutil.Process().memory_info().rss - at_first) / 2**20 - 256)
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")


def holes_mib(*, before: str = "", after: str = "") -> float:
    program = PROGRAM.format(before=before, after=after)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def test_holes_between_blocks_in_use_are_given_back() -> None:
    assert holes_mib(after="give_back_holes()") < 32


def test_freed_blocks_are_given_back_at_once() -> None:
    assert holes_mib(before="give_back_freed_blocks()") < 32
