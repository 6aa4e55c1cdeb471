"""Prompts are read beside each other, and one that is too long not to its end."""

import threading
from pathlib import Path
from typing import Any

import pytest

from serving.model.encoding import RenderedEncoder
from serving.model.tokenizer import load_tokenizer
from serving.tokens.prompts import Prompts
from tests.serving.running import Running

MESSAGES = [{"role": "user", "content": "the cat"}]


def test_while_one_prompt_is_read_others_are_too(
    toy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = Prompts(load_tokenizer(toy_model), adapters=())
    begun, goes_on, read = threading.Event(), threading.Event(), RenderedEncoder.encode

    def slow(encoder: RenderedEncoder, rendered: Any) -> Any:
        begun.set()
        assert goes_on.wait(60)
        return read(encoder, rendered)

    with monkeypatch.context() as patched:
        patched.setattr(RenderedEncoder, "encode", slow)
        first = threading.Thread(target=lambda: prompts.encode_chat(MESSAGES, model="toy"))
        first.start()
        assert begun.wait(60)
    assert prompts.encode_chat(MESSAGES, model="toy")
    assert prompts.decode(prompts.encode_text("the dog")) == "the dog"
    goes_on.set()
    first.join()


def test_many_threads_read_the_same_as_one(toy_model: Path) -> None:
    prompts = Prompts(load_tokenizer(toy_model), adapters=())
    texts = [f"the cat {number} <|im_end|> sat" * 50 for number in range(8)]

    def read(text: str) -> tuple[list[int], list[int]]:
        turns = [{"role": "user", "content": text}]
        return prompts.encode_text(text), prompts.encode_chat(turns, model="toy")

    alone = [read(text) for text in texts]
    found: list[Any] = [None] * len(texts)

    def note(at: int) -> None:
        for _ in range(5):
            found[at] = read(texts[at])

    threads = [threading.Thread(target=note, args=(at,)) for at in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def test_a_text_is_read_no_further_than_it_takes_to_know_that_it_is_too_long(
    toy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = Prompts(load_tokenizer(toy_model), adapters=())
    taken: list[int] = []
    encode = prompts.encode_text

    def noted(text: str, *, adds: bool = True) -> list[int]:
        taken.append(len(text))
        return encode(text, adds=adds)

    monkeypatch.setattr(prompts, "encode_text", noted)
    assert prompts.exceeds(["a b " * 250_000], 4096)
    assert sum(taken) < 100_000
    assert not prompts.exceeds(["the cat sat"], 4096)


@pytest.mark.parametrize(
    ("path", "said", "param"),
    [
        ("/v1/completions", {"prompt": "a b " * 10_000}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a b " * 10_000}]}, ""),
    ],
)
def test_a_prompt_that_is_too_long_is_refused_in_the_same_words(
    server: Running, path: str, said: dict[str, Any], param: str
) -> None:
    error = server.client.post(path, json={"model": "toy"} | said).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", param or "messages")
    assert "over 4096 tokens of prompt and 1 to generate were asked for" in error["message"]
