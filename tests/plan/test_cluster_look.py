"""What a cluster and this machine's files say to a plan, and what their silence means."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.errors import (
    AddressForbidden,
    InvalidPriceTable,
    KubernetesRefused,
    KubernetesUnavailable,
)
from tasks.plan.findings import Findings
from tasks.plan.look import look
from tasks.platform.base import World
from tasks.settings import Settings
from tests.builders import tuning_workspace

HERE = World(config_maps={}, has_secret=lambda _name: True)
CLUSTER = replace(HERE, is_cluster=True)
NODES = [{"metadata": {"name": "gpu-1"}}]
DENIED = KubernetesRefused("nodes were listed", "it says no", "give a role")


async def listed() -> list[dict[str, Any]]:
    return NODES


async def silent() -> list[dict[str, Any]]:
    await asyncio.Event().wait()
    return []


async def denied() -> list[dict[str, Any]]:
    raise DENIED


async def found(
    world: World = CLUSTER,
    list_nodes: Callable[[], Awaitable[Any]] | None = None,
    *,
    url: str = "file:///no/such",
    **settings: Any,
) -> Findings:
    given = Settings(**({"plan_timeout_s": 0.05} | settings))
    workspace = tuning_workspace(input={"urls": [url]})
    return await look(workspace, world, given, list_nodes=list_nodes, list_holders=None)


async def test_the_nodes_that_are_listed_are_what_was_found() -> None:
    assert (await found(list_nodes=listed)).nodes == NODES


async def test_a_cluster_that_refuses_to_list_is_told_with_its_reason() -> None:
    assert (await found(list_nodes=denied)).nodes is DENIED


async def test_a_cluster_that_does_not_answer_is_given_up_and_told() -> None:
    silence = (await found(list_nodes=silent)).nodes
    assert isinstance(silence, KubernetesUnavailable)
    assert str(silence) == (
        "the cluster was asked; there was no answer within 0.05 s; run the plan again, or raise "
        "KAITOFLOW_PLAN_TIMEOUT_S"
    )


async def test_what_nobody_can_be_asked_for_was_not_found() -> None:
    findings = await found()
    looked = (findings.nodes, findings.gpu_holders, findings.rehearsal, findings.quotas)
    assert looked == (None, None, None, None)
    assert (findings.dataset, findings.may_push, findings.has_tuned_image) == (None, None, None)


async def test_nodes_are_the_installation_s_on_a_cluster_and_this_machine_here() -> None:
    made = await found(CLUSTER, platform="kubernetes", provisioner="karpenter")
    assert made.provisioner == "karpenter"
    assert (await found(HERE)).provisioner == "local"


async def test_a_price_table_that_cannot_be_read_is_told_and_ours_is_the_usual_one(
    tmp_path: Path,
) -> None:
    broken = (await found(price_table=tmp_path / "none.yaml")).prices
    assert isinstance(broken, InvalidPriceTable)
    usual = (await found()).prices
    assert usual
    assert not isinstance(usual, InvalidPriceTable)


async def test_services_of_a_cluster_are_not_taken_for_settings_that_are_misspelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAITOFLOW_SERVER_PORT", "tcp://10.0.0.1:80")
    assert (await found(CLUSTER)).unknown_variables == ()
    assert len((await found(HERE)).unknown_variables) == 1


@pytest.mark.parametrize("is_cluster", [True, False])
async def test_addresses_inside_are_asked_only_here_and_only_where_that_is_wanted(
    *, is_cluster: bool
) -> None:
    world = replace(HERE, is_cluster=is_cluster)
    forbidden = (await found(world, url="http://127.0.0.1:9/a", plan_timeout_s=20)).dataset
    assert isinstance(forbidden, AddressForbidden)
    wanted = await found(
        world, url="http://127.0.0.1:9/a", plan_timeout_s=20, allow_local_addresses=True
    )
    assert isinstance(wanted.dataset, AddressForbidden) == is_cluster
