"""Of all that write to one AKS cluster, one does at a time, whichever process it is in."""

import asyncio
import os

from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    temporary_settings,
)

from tasks.nodes.aks.writing import ensure_writer_limit, one_writer


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
