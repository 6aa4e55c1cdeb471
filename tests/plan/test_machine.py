"""What a plan says of this machine: its port, its disk and its memory."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.contract.artifacts import Check, Node
from tasks.contract.errors import DiskFull, ModelDoesNotFit, PortInUse
from tasks.plan.machine import disk, memory, port
from tasks.platform.base import World
from tasks.presets import Preset

HERE = World(config_maps={}, has_secret=lambda _name: True)
NODE = Node(name="here", cores=2, memory_gib=16.0)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_free_port_is_told_and_a_taken_one_refused() -> None:
    world = World(
        config_maps={}, has_secret=lambda _name: True, port_is_free=lambda number: number == 5001
    )
    assert port(world, 5001) == "5001 is free"
    with pytest.raises(PortInUse, match="port 5000 was asked for; somebody else listens there"):
        port(world, 5000)


@pytest.fixture
def free_gib(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_free(gib: float) -> None:
        usage = Usage(total=0, used=0, free=round(gib * 2**30))
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)

    return set_free


@pytest.mark.parametrize(
    ("preset", "needed"),
    [
        (Preset(name="m", model="o/m", size_gib=7.15), "8.2"),
        (Preset(name="m", model="o/m"), "2.0"),
        (None, "2.0"),
    ],
)
def test_the_disk_holds_the_weights_and_a_gigabyte_more(
    preset: Preset | None, needed: str, free_gib: Any, tmp_path: Path
) -> None:
    free_gib(9)
    home = tmp_path / "not" / "made"
    assert disk(preset, home) == f"about {needed} GiB of 9 GiB free for {home}"


def test_a_disk_that_is_just_large_enough_is_and_a_smaller_one_is_refused(
    free_gib: Any, tmp_path: Path
) -> None:
    preset = Preset(name="m", model="o/m", size_gib=7)
    free_gib(8)
    assert disk(preset, tmp_path).startswith("about 8.0 GiB of 8 GiB")
    free_gib(7.9)
    with pytest.raises(DiskFull, match=r"about 8\.0 GiB of 8 GiB free .*KAITOFLOW_HOME"):
        disk(preset, tmp_path)


def test_memory_that_is_just_enough_is_and_less_is_refused() -> None:
    assert memory(16.0, NODE) == "peak about 16.0 GiB of 16.0 GiB free"
    with pytest.raises(ModelDoesNotFit, match=r"peak about 16\.1 GiB of 16\.0 GiB free; choose"):
        memory(16.1, NODE)


def test_memory_that_is_not_known_is_the_trainer_s_to_check() -> None:
    assert memory(None, NODE) == Check(
        name="memory",
        result="warn",
        detail="unknown until the weights are here",
        fix="the trainer checks it before it loads them",
    )


def test_without_a_node_one_with_enough_memory_is_looked_for() -> None:
    assert memory(2.5, None) == "peak about 2.5 GiB; a node that has it is looked for"
