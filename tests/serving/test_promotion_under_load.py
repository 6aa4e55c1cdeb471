"""Sixteen clients ask without a pause while adapters come, are promoted and taken back."""

import asyncio
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tasks.contract.programs.serving import ServerConfig
from tests.serving import toy
from tests.serving.constant_load import PROMPTS, Load
from tests.serving.running import Running, serve

CLIENTS, LOADS = 16, 20


@pytest.fixture
def tuned(smollm2_weights: Path, tmp_path: Path) -> Iterator[Running]:
    """SmolLM2 with a folder of two adapters of rank 16 on every layer."""
    for seed in (1, 2):
        toy.make_adapter(
            tmp_path / "adapters" / str(seed),
            smollm2_weights,
            seed=seed,
            base="HuggingFaceTB/SmolLM2-135M-Instruct",
            rank=16,
            every_layer=True,
        )
    (tmp_path / "key").write_text("open-sesame")
    config = ServerConfig(
        weights_dir=smollm2_weights,
        served_model_name="smollm2",
        admin_key_file=tmp_path / "key",
        adapters_dir=tmp_path / "adapters",
    )
    with serve(config) as running:
        yield running


async def own_answers(load: Load, adapters: Path) -> None:
    """Learn what each version says alone, before anybody else asks."""
    for version in ("mine@1", "mine@2"):
        await load.load(version, version[-1])
        await load.learn(version)
    assert len(set(load.texts.values())) > len(PROMPTS)
    await load.admin("/v1/unload_lora_adapter", lora_name="mine@2")
    for number in range(LOADS):
        shutil.copytree(adapters / "2", adapters / f"other-{number}")


@pytest.mark.slow
async def test_no_request_fails_or_is_answered_by_the_wrong_adapter(
    tuned: Running, tmp_path: Path
) -> None:
    async with httpx2.AsyncClient(
        base_url=tuned.url, timeout=300, trust_env=False, limits=httpx2.Limits(max_connections=64)
    ) as client:
        load = Load(client)
        await own_answers(load, tmp_path / "adapters")
        await load.admin("/admin/promote", name="mine", version="mine@1")
        load.allow("mine@1")
        clients = [asyncio.create_task(load.go_on(number)) for number in range(CLIENTS)]
        await load.until_more("mine@1")
        seconds = []
        for number in range(LOADS):
            seconds.append(await load.load(f"other-{number}", f"other-{number}"))
            await load.admin("/v1/unload_lora_adapter", lora_name=f"other-{number}")
        await load.load("mine@2", "2")
        await load.until_more("mine@1")

        load.allow("mine@1", "mine@2")
        canary = {"version": "mine@2", "share": 0.5, "for_s": 600.0, "most_slowdown": 100.0}
        await load.admin("/admin/canary", name="mine", **canary)
        await load.until_more("mine@2")
        await load.move("/admin/promote", before="mine@1", after="mine@2", version="mine@2")
        await load.until_more("mine@2")
        await load.move("/admin/rollback", before="mine@2", after="mine@1")
        await load.until_more("mine@1")
        leaving = {"version": "mine@2", "unload_former": True}
        await load.move("/admin/promote", before="mine@1", after="mine@2", **leaving)
        await load.until_more("mine@2")
        load.is_over = True
        await asyncio.gather(*clients)
        while "mine@1" in tuned.engine.models:
            await asyncio.sleep(0.05)
    print(  # noqa: T201 - figures for whoever runs it with -s
        f"hot load beside {CLIENTS} clients: median of {LOADS} {statistics.median(seconds):.2f} s,"
        f" p99 {statistics.quantiles(seconds, n=100)[98]:.2f} s; answered {dict(load.answered)}"
    )
    assert load.wrong == []
