"""An agent pool that has the name of ours and is not is never taken, changed or removed."""

import contextlib
from collections.abc import Mapping
from typing import Any, cast

import pytest
from azure.mgmt.containerservice.models import (
    AgentPool,
    AgentPoolManagedClusterAgentPoolProfileProperties,
)

from tasks.contract.errors import CloudDenied
from tasks.nodes.aks.agent_pools import AgentPools
from tasks.nodes.aks.fulfiller import AksFulfiller
from tasks.nodes.aks.pool_body import CLAIM_TAG, INSTALLATION_TAG
from tasks.nodes.provisioner import Machine
from tasks.platform.kube_api import KubeApi
from tests.nodes.test_claims import claim

Object = dict[str, Any]
NAME = claim()["metadata"]["name"]
OURS = {INSTALLATION_TAG: "system", CLAIM_TAG: NAME}


class OnePool:
    """A cluster with one pool, which nobody may change."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        self.pool = AgentPool()
        self.pool.name = NAME
        self.pool.properties = AgentPoolManagedClusterAgentPoolProfileProperties(tags=dict(tags))

    async def all(self) -> list[AgentPool]:
        return [self.pool]

    async def get(self, _name: str) -> AgentPool:
        return self.pool


def fulfiller(tags: Mapping[str, str], *nodes: Object) -> AksFulfiller:
    """It can write to nothing: whoever tries fails."""

    async def listed() -> list[Object]:
        return [*nodes]

    async def no_api() -> KubeApi:
        raise AssertionError("nothing is to be written")

    return AksFulfiller(
        cast("AgentPools", OnePool(tags)),
        no_api,
        list_nodes=listed,
        writing=contextlib.nullcontext,
        installation="system",
        look_every_s=0,
    )


def made() -> Object:
    """A claim that was written and has no machine yet."""
    return claim() | {"status": {}, "metadata": claim()["metadata"] | {"uid": "c"}}


OF_THE_POOL = {"metadata": {"name": "n", "labels": {"agentpool": NAME}}, "status": {}}


@pytest.mark.parametrize(
    "tags",
    [{}, {INSTALLATION_TAG: "another", CLAIM_TAG: NAME}, {**OURS, CLAIM_TAG: "another"}],
    ids=["a person's", "another installation's", "another claim's"],
)
@pytest.mark.parametrize("nodes", [(), (OF_THE_POOL,)], ids=["without nodes", "with a node"])
async def test_its_nodes_become_no_claim_s(
    tags: Mapping[str, str], nodes: tuple[Object, ...]
) -> None:
    with pytest.raises(CloudDenied, match="one of that name that is not ours"):
        await fulfiller(tags, *nodes).advance(made())


async def test_it_stays_when_a_claim_of_that_name_is_given_back() -> None:
    assert await fulfiller({}).remove(made())


async def test_it_is_no_machine_of_ours_and_is_not_discarded() -> None:
    foreign = fulfiller({})
    assert await foreign.machines() == []
    machine = Machine(
        name=NAME, claim="", instance_type="x", capacity_type="on-demand", state="Succeeded"
    )
    await foreign.discard(machine)
