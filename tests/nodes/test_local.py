"""On one machine the node is the machine, at once."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.nodes.local import LocalProvisioner
from tasks.nodes.need import need_of
from tasks.nodes.provisioner import Waiting
from tasks.platform.local import LocalPlatform
from tasks.settings import Settings
from tests.builders import tuning_workspace


async def never(waiting: Waiting) -> None:
    raise AssertionError(f"nothing is waited for here: {waiting}")


async def test_the_node_is_this_machine(tmp_path: Path) -> None:
    platform = LocalPlatform(Settings(home=tmp_path))
    workspace = tuning_workspace()
    provisioner = LocalProvisioner(platform.node)
    ready = await provisioner.ensure_nodes(workspace, need_of(workspace), on_waiting=never)
    (node,) = ready.nodes
    assert node.name == (await platform.node()).name
    assert ready.detail == f"{node.name}: {node.cores} cores, {node.memory_gib:.1f} GiB free"
    assert not provisioner.makes_nodes
    assert await provisioner.release(workspace) == ()


def test_nodes_that_pods_cannot_run_on_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITOFLOW_PROVISIONER", "byo")
    with pytest.raises(ValidationError, match="pods run on platform local; leave it unset"):
        Settings()
