"""The server of a model that judges answers: which models it has, and what it replies.

Asked by the plan and by the measurement's pod, both through the guard of addresses. The key is in
no message of ours, also where the server's own repeats it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import httpx2

from tasks.contract.errors import JudgeUnavailable, JudgeUnusable
from tasks.contract.judge import JUDGE_ANNOTATION, Judge
from tasks.contract.redaction import one_line
from tasks.remote import guard
from tasks.remote.file_server import RETRIED_STATUSES

_CONNECT_S, _READ_S = 10.0, 120.0
_TOLD = 200
_FIX = (
    "use a public address; on one machine KAITOFLOW_ALLOW_LOCAL_ADDRESSES=true, on a cluster"
    " pods.allowLocalAddresses lets private ones be asked"
)


class JudgeServer:
    """A judge that is asked; use it as a context, from any threads."""

    def __init__(self, judge: Judge, *, key: str = "", allow_local_addresses: bool) -> None:
        """Ask with a key, if there is one."""
        self._judge, self._key = judge, key
        backend = guard.GuardedBackend(allow_local_addresses=allow_local_addresses, fix=_FIX)
        self._client = httpx2.Client(
            transport=guard.GuardedTransport(backend, tls=guard.trusted_authorities()),
            timeout=httpx2.Timeout(_READ_S, connect=_CONNECT_S),
            trust_env=False,
            headers={"User-Agent": "kaitoflow"}
            | ({"Authorization": f"Bearer {key}"} if key else {}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def models(self) -> list[str] | None:
        """The models that it says it has; None = it says so to nobody, or to nobody without a key.

        Raises: JudgeUnavailable, AddressForbidden.
        """
        try:
            listed = self._ask("GET", "/models")
            return [str(each["id"]) for each in listed["data"]]
        except (JudgeUnusable, LookupError, TypeError):
            return None

    def reply(self, messages: Sequence[Mapping[str, str]]) -> str:
        """What the model says to a conversation, as little by chance as it can.

        Raises: JudgeUnavailable, JudgeUnusable, AddressForbidden.
        """
        body = {"model": self._judge.model, "messages": [*messages]}
        try:
            said = self._ask("POST", "/chat/completions", body | {"temperature": 0})
        except JudgeUnusable as error:
            if "temperature" not in error.found:
                raise
            said = self._ask("POST", "/chat/completions", body)  # models that reason take none
        try:
            return str(said["choices"][0]["message"]["content"] or "")
        except (LookupError, TypeError):
            raise self.unusable(f"it said {self._shown(json.dumps(said))}") from None

    def unusable(self, found: str) -> JudgeUnusable:
        """That it cannot judge, for what it says."""
        fix = f"correct annotation {JUDGE_ANNOTATION}, or give its key in Secret NAME-judge-key"
        return JudgeUnusable(f"{self._judge} was asked to judge an answer", found, fix)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        asked = f"{self._judge} was asked for {path}"
        again = "see that it answers from where pods run"
        try:
            answer = self._client.request(method, self._judge.url + path, json=body)
        except httpx2.TransportError as error:
            found = f"it does not answer ({type(error).__name__} {error})"
            raise JudgeUnavailable(asked, found, again) from error
        said = f"it said HTTP {answer.status_code} {self._shown(answer.text)}"
        if answer.status_code in RETRIED_STATUSES:
            raise JudgeUnavailable(asked, said, again)
        try:
            if answer.is_success:
                return answer.json()
        except ValueError:
            said = f"it said what is no JSON: {self._shown(answer.text)}"
        raise self.unusable(said)

    def _shown(self, text: str) -> str:
        shown = one_line(text)
        return (shown.replace(self._key, "***") if self._key else shown)[:_TOLD]
