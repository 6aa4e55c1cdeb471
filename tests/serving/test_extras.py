"""The options beyond OpenAI's that cost little, and tokens asked for by themselves."""

from typing import Any

import pytest

from tests.serving.running import Running
from tests.serving.toy import SPECIAL

pytestmark = pytest.mark.both_engines

TEXT = {"model": "toy", "prompt": "the cat sat", "temperature": 0, "max_tokens": 8}


def complete(server: Running, **fields: Any) -> str:
    answer = server.client.post("/v1/completions", json=TEXT | fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def refused(server: Running, path: str = "/v1/completions", **fields: Any) -> dict[str, Any]:
    answer = server.client.post(path, json=fields)
    assert answer.status_code == 400, answer.text
    return dict(answer.json()["error"])


def test_a_bias_brings_a_token_and_keeps_one_away(server: Running) -> None:
    (token, *_) = server.engine.prompts.encode_text("fog", adds=False)
    assert complete(server, logit_bias={str(token): 100}) == 8 * server.engine.prompts.decode(
        [token]
    )
    letters = [server.engine.prompts.encode_text(letter, adds=False)[0] for letter in "ab"]
    two = {"allowed_token_ids": letters, "max_tokens": 1}
    first = complete(server, **two)
    (kept_away,) = server.engine.prompts.encode_text(first, adds=False)
    other = complete(server, **two, logit_bias={str(kept_away): -100})
    assert {first, other} == {"a", "b"}


def test_only_allowed_tokens_come(server: Running) -> None:
    ids = server.engine.prompts.encode_text("abc", adds=False)
    assert set(complete(server, allowed_token_ids=ids)) <= set("abc")


def test_a_bad_word_does_not_come_in_whatever_form(server: Running) -> None:
    plain = complete(server, max_tokens=30)
    word = plain[4:6].strip()
    assert word in plain
    ids = [server.engine.prompts.encode_text(form, adds=False) for form in (word, f" {word}")]
    said = server.engine.prompts.encode_text(
        complete(server, max_tokens=30, bad_words=[word]), adds=False
    )
    for bad in ids:
        assert not any(said[at : at + len(bad)] == bad for at in range(len(said)))


def test_a_stop_text_is_shown_where_that_is_asked_for(server: Running) -> None:
    plain = complete(server)
    stop = plain[3:5]
    end = plain.index(stop)
    assert complete(server, stop=stop) == plain[:end]
    assert complete(server, stop=stop, include_stop_str_in_output=True) == plain[: end + 2]


def test_special_tokens_are_shown_where_that_is_asked_for(server: Running) -> None:
    asked = {"allowed_token_ids": [0], "ignore_eos": True, "max_tokens": 2}
    assert complete(server, **asked) == ""
    assert complete(server, **asked, skip_special_tokens=False) == 2 * SPECIAL[0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"9999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a.[key]"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
        ({"bad_words": [""]}, "bad_words.0"),
    ],
)
def test_a_token_that_cannot_be_meant_is_refused_by_name(
    server: Running, fields: dict[str, Any], param: str
) -> None:
    body: dict[str, Any] = TEXT | fields
    assert refused(server, **body)["param"] == param


def test_the_last_message_may_be_continued(server: Running) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the cat "}]
    body = {"model": "toy", "messages": messages, "temperature": 0, "max_tokens": 5}
    chat = server.client.post(
        "/v1/chat/completions", json=body | {"continue_final_message": True}
    ).json()
    prompt = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nthe cat "
    ids = server.engine.prompts.encode_text(prompt, adds=False)
    assert chat["choices"][0]["message"]["content"] == complete(server, prompt=ids, max_tokens=5)
    error = refused(
        server, "/v1/chat/completions", messages=messages[:1], continue_final_message=True
    )
    assert "last message of the assistant's" in error["message"]


def test_a_variable_that_the_template_does_not_know_is_refused_by_name(server: Running) -> None:
    messages = [{"role": "user", "content": "a"}]
    kwargs = {"enable_thinking": False}
    error = refused(server, "/v1/chat/completions", messages=messages, chat_template_kwargs=kwargs)
    assert error["param"] == "chat_template_kwargs.enable_thinking"
    assert "takes none" in error["message"]


def test_a_text_becomes_tokens_and_a_text_again(server: Running) -> None:
    told = server.client.post("/tokenize", json={"prompt": "the cat", "return_token_strs": True})
    answer = told.json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 4096
    back = server.client.post("/detokenize", json={"tokens": answer["tokens"]})
    assert back.json() == {"prompt": "the cat"}


def test_a_conversation_becomes_the_tokens_that_it_is_asked_with(server: Running) -> None:
    messages = [{"role": "user", "content": "the cat"}]
    asked = server.client.post("/tokenize", json={"messages": messages, "model": "toy"}).json()
    assert asked["count"] == server.chat("the cat", model="toy").json()["usage"]["prompt_tokens"]
    open_ended = {"messages": messages, "model": "toy", "add_generation_prompt": False}
    assert server.client.post("/tokenize", json=open_ended).json()["count"] < asked["count"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {}, 400),
        ("/tokenize", {"prompt": "a", "model": "no"}, 404),
        ("/tokenize", {"prompt": "a" * 900_000}, 400),
        ("/tokenize", [], 400),
        ("/detokenize", {"tokens": [999_999]}, 400),
        ("/detokenize", {"tokens": "a"}, 400),
    ],
)
def test_tokens_that_cannot_be_told_are_refused(
    server: Running, path: str, body: Any, status: int
) -> None:
    assert server.client.post(path, json=body).status_code == status
