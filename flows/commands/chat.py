"""`kaitoflow chat`: a conversation with a Workspace's model over its OpenAI-compatible API."""

import json
import sys
from collections.abc import Iterator

import httpx2

from flows.commands.show import find_workspace
from tasks.artifacts import Endpoint
from tasks.errors import ServerNotReady
from tasks.platform import local_platform

Message = dict[str, str]
_CONNECT_S, _ANSWER_S = 5.0, 600.0


def chat_with(name: str, prompt: str | None, *, namespace: str) -> int:
    """Answer one prompt, or talk until the input ends; words appear as they are generated."""
    stored = find_workspace(name, namespace)
    endpoint = stored.status.endpoint
    if not endpoint or not local_platform().is_serving(stored.workspace):
        raise ServerNotReady(
            f"a chat with workspace {name} was asked for; its server is not running; "
            "start it with `kaitoflow run WORKSPACE.yaml`"
        )
    if prompt is not None:
        _answer(endpoint, [{"role": "user", "content": prompt}])
        return 0
    _converse(endpoint)
    return 0


def _converse(endpoint: Endpoint) -> None:
    messages: list[Message] = []
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            said = input(prompt)
        except EOFError:
            sys.stdout.write("\n")
            return
        if not said.strip():
            continue
        messages.append({"role": "user", "content": said})
        messages.append({"role": "assistant", "content": _answer(endpoint, messages)})


def _answer(endpoint: Endpoint, messages: list[Message]) -> str:
    answer = ""
    for words in _stream(endpoint, messages):
        answer += words
        sys.stdout.write(words)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return answer


def _stream(endpoint: Endpoint, messages: list[Message]) -> Iterator[str]:
    # A small model may ramble on to the end of its context.
    limits = {"max_tokens": 512, "temperature": 0}
    body = {"model": endpoint.model, "messages": messages, "stream": True, **limits}
    timeout = httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S)
    url = f"{endpoint.url}/v1/chat/completions"
    with httpx2.stream("POST", url, json=body, timeout=timeout, trust_env=False) as response:
        if response.status_code != httpx2.codes.OK:
            error = json.loads(response.read())["error"]["message"]
            raise ServerNotReady(f"{endpoint.url} was asked to answer; it said: {error}; try again")
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if not line.startswith("data: ") or data == "[DONE]":
                continue
            event = json.loads(data)
            if event.get("choices"):
                yield event["choices"][0]["delta"].get("content") or ""
