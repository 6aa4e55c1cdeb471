"""The README's table of what differs between the engines tells what the code does."""

import re

import pytest

from serving.transformers_engine import capacity
from serving.vllm_engine.limits import MOST_ENTRIES, NOT_BESIDE_GUESSING
from tasks.contract.plain_lora import MOST_RANK
from tasks.contract.programs.serving import VllmConfig
from tasks.engines import concurrency
from tests.test_documentation import ROOT

_HEAD = "| | our own | vLLM |\n| --- | --- | --- |\n"


def differences() -> dict[str, tuple[str, str]]:
    """Our own engine and vLLM, by what the table is about."""
    rows = (ROOT / "README.md").read_text().partition(_HEAD)[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]
    return {about: (own, vllm) for about, own, vllm in cells}


def options(about: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", about))


@pytest.mark.parametrize(("name", "most"), MOST_ENTRIES.items())
def test_what_vllm_takes_fewer_of_is_told_with_how_many(name: str, most: int) -> None:
    told = [
        each
        for about, each in differences().items()
        if name in options(about) and "speculative" not in about
    ]
    assert [(own.startswith("any number"), f"{most:,} at most" in vllm) for own, vllm in told] == [
        (True, True)
    ]


def test_what_does_not_go_with_guessing_ahead_is_told() -> None:
    told = [about for about in differences() if "speculative decoding" in about]
    assert [options(about) for about in told] == [{*NOT_BESIDE_GUESSING}]


def test_no_option_is_told_of_that_both_take_alike() -> None:
    told = {name for about in differences() for name in options(about)}
    assert told == {*MOST_ENTRIES, *NOT_BESIDE_GUESSING, "min_tokens"}


def test_the_numbers_of_each_engine_are_those_it_has() -> None:
    told = differences()
    most = tuple(str(concurrency(engine, None)) for engine in ("transformers", "vllm"))
    assert told["continuations at once"] == most
    assert f"({VllmConfig.max_lora_rank}, " in told["adapters"][1]
    assert f"{MOST_RANK} at most" in told["adapters"][1]
    assert f"{capacity.MOST_KEPT_TOKENS:,} tokens at most" in told["prompts"][0]
    in_words = {3: "three times"}[VllmConfig.restarts]
    assert in_words in told["a fault of the engine"][1]
