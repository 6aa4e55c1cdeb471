"""Prefect's server, as far as PREFECT_API_URL and its login reach it from here."""

import os
from datetime import UTC, datetime

from flows.doctor import verdicts
from flows.prefect_api import PrefectApi
from tasks.contract.artifacts import Check
from tasks.contract.errors import PrefectUnavailable
from tasks.plan.check import from_error


async def ask_prefect(pool: str) -> list[Check]:
    """Whether it answers to our login, and whether a worker asks for runs of the pool."""
    try:
        async with PrefectApi(waits_s=()) as prefect:
            found = await prefect.workers_of(pool)
    except PrefectUnavailable as error:
        return [from_error("Prefect", error, result="fail")]
    answers = Check(name="Prefect", result="ok", detail=f"{os.environ['PREFECT_API_URL']} answers")
    return [answers, verdicts.workers(pool, found, datetime.now(UTC))]
