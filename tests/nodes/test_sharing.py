"""Workspaces with one selector, in any order: each has its node, and no node is idle."""

import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence

import pytest

from tests.nodes.sharing import Cluster

Act = tuple[str, str]
SETTLING = 16  # ticks in which everything has come to rest


def orders(names: str) -> Iterator[tuple[Act, ...]]:
    """Every order of applying and deleting Workspaces, each deleted after it was applied."""
    for order in sorted(set(itertools.permutations(names * 2))):
        seen: set[str] = set()
        acts = []
        for name in order:
            acts.append(("delete" if name in seen else "apply", name))
            seen.add(name)
        yield tuple(acts)


async def play(cluster: Cluster, acts: Sequence[Act], ticks: Sequence[int]) -> None:
    """Do one after the other, with so many ticks after each; at rest all is as it should be."""
    for (act, name), number in zip(acts, ticks, strict=True):
        if act == "apply":
            cluster.apply(name)
        else:
            cluster.delete(name)
        for _ in range(number):
            await cluster.tick()
            nobody_uses_a_node_of_another(cluster)
        if number == SETTLING:
            at_rest(cluster)
    await asyncio.gather(*cluster.going)


def nobody_uses_a_node_of_another(cluster: Cluster) -> None:
    for each in cluster.living.values():
        assert cluster.owner_of(each.node) in {"", each.workspace.metadata.uid}


def at_rest(cluster: Cluster) -> None:
    assert all(each.is_settled and each.node for each in cluster.living.values())
    assert cluster.idle() == []
    brought = sum(not node.startswith("node-") for node in cluster.nodes)
    assert len(cluster.api.claims) <= len(cluster.living)
    assert len(cluster.api.claims) >= len(cluster.living) - brought
    assert len(cluster.nodes) - brought == len(cluster.api.claims)


@pytest.mark.parametrize("free_nodes", [0, 1])
async def test_two_workspaces_in_any_order_and_at_any_pace(free_nodes: int) -> None:
    for acts in orders("ab"):
        for ticks in itertools.product((0, 1, 3, SETTLING), repeat=3):
            await play(Cluster(free_nodes=free_nodes), acts, [*ticks, SETTLING])


@pytest.mark.parametrize("free_nodes", [0, 1, 2])
async def test_three_workspaces_in_any_order(free_nodes: int) -> None:
    paces = random.Random(free_nodes)
    for acts in orders("abc"):
        ticks = paces.choices((0, 1, 2, 3, 4, 5, SETTLING), k=5)
        await play(Cluster(free_nodes=free_nodes), acts, [*ticks, SETTLING])
