"""`kaitoflow chat`: a conversation with a Workspace's model over its OpenAI-compatible API."""

import json
import sys
from collections.abc import Iterator

from flows.places.base import Objects, find_workspace, server_not_running
from flows.places.place import Place, open_objects
from tasks.contract.redaction import harmless
from tasks.platform.store import StoredWorkspace

Message = dict[str, str]


def chat_with(name: str, prompt: str | None, *, namespace: str | None, place: Place) -> int:
    """Answer one prompt, or talk until the input ends; words appear as they are generated."""
    with open_objects(place) as objects:
        stored = find_workspace(objects, name, namespace)
        if not stored.status.endpoint or not objects.is_serving(stored.workspace):
            raise server_not_running(stored.workspace)
        if prompt is not None:
            _answer(objects, stored, [{"role": "user", "content": prompt}])
            return 0
        _converse(objects, stored)
    return 0


def _converse(objects: Objects, stored: StoredWorkspace) -> None:
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
        messages.append({"role": "assistant", "content": _answer(objects, stored, messages)})


def _answer(objects: Objects, stored: StoredWorkspace, messages: list[Message]) -> str:
    answer = ""
    for words in _stream(objects, stored, messages):
        answer += words
        sys.stdout.write(harmless(words))
        sys.stdout.flush()
    sys.stdout.write("\n")
    return answer


def _stream(objects: Objects, stored: StoredWorkspace, messages: list[Message]) -> Iterator[str]:
    assert stored.status.endpoint
    # A small model may ramble on to the end of its context.
    limits = {"max_tokens": 512, "temperature": 0}
    model = stored.status.endpoint.model
    body = {"model": model, "messages": messages, "stream": True, **limits}
    for line in objects.ask(stored, body):
        data = line.removeprefix("data: ")
        if not line.startswith("data: ") or data == "[DONE]":
            continue
        event = json.loads(data)
        if event.get("choices"):
            yield event["choices"][0]["delta"].get("content") or ""
