"""Of all that write to one AKS cluster, one does at a time, whichever process it is in."""

import asyncio
import os

from prefect import get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    temporary_settings,
)

from tasks.nodes.aks.writing import ensure_writer_limit, one_writer


async def test_a_slot_that_nobody_gives_back_holds_writers_up_for_a_while_alone(
    prefect_home: str,
) -> None:
    there = {
        PREFECT_API_URL: prefect_home,
        PREFECT_API_AUTH_STRING: os.environ["PREFECT_API_AUTH_STRING"],
    }
    with temporary_settings(there):
        await ensure_writer_limit("left")
        async with get_client() as client:
            # As a server leaves it that forgot the lease.
            await client.increment_concurrency_slots(["kaitoflow-aks-left"], 1, "concurrency")
            async with one_writer("left", wait_s=1):
                pass
            async with one_writer("left", wait_s=60):
                limit = await client.read_global_concurrency_limit_by_name("kaitoflow-aks-left")
    assert limit.active_slots == 1


async def test_writers_to_one_cluster_take_turns_and_those_to_another_do_not_wait(
    prefect_home: str,
) -> None:
    writing: dict[str, int] = {"one": 0, "other": 0}
    most = dict(writing)
    is_other_there = asyncio.Event()

    async def write(cluster: str) -> None:
        async with one_writer(cluster):
            writing[cluster] += 1
            most[cluster] = max(most[cluster], writing[cluster])
            if cluster == "other":
                is_other_there.set()
            await is_other_there.wait()
            await asyncio.sleep(0.2)
            writing[cluster] -= 1

    there = {
        PREFECT_API_URL: prefect_home,
        PREFECT_API_AUTH_STRING: os.environ["PREFECT_API_AUTH_STRING"],
    }
    with temporary_settings(there):
        for cluster in writing:
            await ensure_writer_limit(cluster)
        await asyncio.gather(*map(write, ("one", "one", "other")))
    assert most == {"one": 1, "other": 1}
