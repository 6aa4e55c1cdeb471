"""What each server is asked: by many clients, by a long prompt beside streams, with one prefix."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.serving.load import Reading, ask, ask_all, connected
from tests.bench.serving.measures import Answer, Outcome, failures_of, outcome_of, percentile
from tests.bench.serving.prompts import Prompts
from tests.bench.serving.servers import ANSWERED_WITHIN_S, Server

STREAMS, LONG_PROMPT_TOKENS = 8, 1500
PREFIX_TOKENS = 1000
_SHORT_ANSWER_TOKENS = 2
_LEAST_REQUESTS = 4
_BEGUN_TEXTS = 8  # of a stream that runs, and shows how long it waits by itself
_LOOK_EVERY_S = 0.01


@dataclass(frozen=True)
class Case:
    """One thing that servers are asked.

    run: asks a server in one repetition, and tells what it came to. without: who is not asked.
    """

    name: str
    run: Callable[[Server, int], Outcome]
    without: Collection[str] = ()


def clients_at_once(clients: int, *, tokens: int, prompts: Prompts) -> Case:
    """So many clients, each with a short prompt of its own; few of them ask more than once."""

    def run(server: Server, repetition: int) -> Outcome:
        requests = max(clients, _LEAST_REQUESTS)
        bodies = [
            server.body(each, _user(prompts.letter(f"{repetition}-{clients}-{each}")), tokens)
            for each in range(requests)
        ]
        asked = ask_all(server.url, bodies, clients=clients, within_s=ANSWERED_WITHIN_S)
        return outcome_of(asyncio.run(asked))

    return Case(str(clients), run)


def long_prompt_joins(*, tokens: int, prompts: Prompts, without: Collection[str] = ()) -> Case:
    """Eight streams run, then a prompt of 1,500 tokens comes: how long do they wait for it?"""

    def run(server: Server, repetition: int) -> Outcome:
        short = [prompts.letter(f"{repetition}-join-{each}") for each in range(STREAMS)]
        streams = [server.body(each, _user(text), tokens) for each, text in enumerate(short)]
        long = prompts.text(f"{repetition}-join", tokens=LONG_PROMPT_TOKENS)
        joining = server.body(0, _user(long), _SHORT_ANSWER_TOKENS)
        return asyncio.run(_join(server.url, streams, joining))

    return Case("long_prompt_joins", run, without)


async def _join(url: str, streams: Sequence[dict[str, Any]], joining: dict[str, Any]) -> Outcome:
    readings = [Reading() for _ in streams]
    async with connected(url, within_s=ANSWERED_WITHIN_S) as client:
        asking = [
            asyncio.create_task(ask(client, body, within_s=ANSWERED_WITHIN_S, reading=reading))
            for body, reading in zip(streams, readings, strict=True)
        ]
        # A server that runs fewer at once never has them all begun: then the first to end counts.
        while not (
            all(len(each.text_s) >= _BEGUN_TEXTS for each in readings)
            or any(each.done() for each in asking)
        ):
            await asyncio.sleep(_LOOK_EVERY_S)
        running = sum(
            bool(reading.text_s) and not task.done()
            for reading, task in zip(readings, asking, strict=True)
        )
        joined = await ask(client, joining, within_s=ANSWERED_WITHIN_S)
        answers = await asyncio.gather(*asking)
    return joining_outcome(answers, joined, running=running)


def joining_outcome(streams: Sequence[Answer], joined: Answer, *, running: int) -> Outcome:
    """The longest waits of streams before a prompt came and while it was read."""
    good = [answer for answer in streams if not answer.failure]
    read_s = joined.ended_s if joined.failure else joined.text_s[0]
    gaps = [each.longest_gap_s(joined.asked_s, read_s) for each in good]
    before = [each.longest_gap_s(0.0, joined.asked_s) for each in good]
    figures = {
        "longest_gap_ms": _most_ms(gaps),
        "longest_gap_before_ms": _most_ms(before),
        "ttft_ms": None if joined.failure else joined.first_token_s * 1000,
        "streams_running": float(running),
    }
    return Outcome(figures, failures_of([*streams, joined]))


def _most_ms(gaps_s: Sequence[float | None]) -> float | None:
    return max((gap * 1000 for gap in gaps_s if gap is not None), default=None)


def known_prefix(*, requests: int, prompts: Prompts, without: Collection[str] = ()) -> Case:
    """One after the other, with one system prompt of 1,000 tokens: is it read anew each time?"""

    def run(server: Server, repetition: int) -> Outcome:
        system = prompts.text(f"{repetition}-prefix", tokens=PREFIX_TOKENS)
        bodies = [
            server.body(
                0,
                [{"role": "system", "content": system}, *_user(f"Question {each}: what is it?")],
                _SHORT_ANSWER_TOKENS,
            )
            for each in range(requests)
        ]
        asked = ask_all(server.url, bodies, clients=1, within_s=ANSWERED_WITHIN_S)
        return prefix_outcome(asyncio.run(asked))

    return Case("known_prefix", run, without)


def prefix_outcome(answers: Sequence[Answer]) -> Outcome:
    """The first's wait for its first token, and that of those after it."""
    first, *later = answers
    good = [answer.first_token_s * 1000 for answer in later if not answer.failure]
    first_ms = None if first.failure else first.first_token_s * 1000
    later_ms = percentile(good, 0.5)
    figures = {
        "first_ttft_ms": first_ms,
        "later_ttft_p50_ms": later_ms,
        "later_to_first": later_ms / first_ms if later_ms and first_ms else None,
    }
    return Outcome(figures, failures_of(answers))


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
