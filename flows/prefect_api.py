"""The few things that watcher and leak collection ask of Prefect's server, by its REST API.

Without Prefect's own client: importing it takes 40 MB and a second, of programs that make a few
kinds of requests.
"""

import asyncio
import base64
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID, uuid4

import httpx2
from pydantic import BaseModel

from tasks.contract.errors import PrefectUnavailable

logger = logging.getLogger(__name__)

Body = Mapping[str, Any] | Sequence[Mapping[str, Any]]

_TIMEOUT_S = 30.0
# Together about four minutes: longer than a server takes to be moved to another node. None is long,
# for one that is busy says no at once, and is free a moment later.
_WAITS_S = (0.5, 1.0, 2.0, 4.0, *(8.0,) * 30)
_AGAIN = {
    httpx2.codes.TOO_MANY_REQUESTS,
    httpx2.codes.BAD_GATEWAY,
    httpx2.codes.SERVICE_UNAVAILABLE,
    httpx2.codes.GATEWAY_TIMEOUT,
}
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
_ALIVE = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
_UID_TAG = "workspace-uid:"
# Of every run that is at work on a Workspace but those on its way back, whichever flow it is of.
RUN_TAG = "run-workspace"
_PAGE = 200


def uid_tag(uid: str) -> str:
    """The tag of all runs for the Workspace with this uid."""
    return f"{_UID_TAG}{uid}"


class Run(BaseModel):
    """A flow run, as far as it is looked at here."""

    id: UUID
    name: str
    state_type: str | None = None
    state_name: str | None = None
    tags: list[str] = []
    idempotency_key: str | None = None
    state: dict[str, Any] | None = None

    @property
    def said(self) -> str:
        """What its state says of itself."""
        return str((self.state or {}).get("message") or "")

    @property
    def since(self) -> datetime:
        """The moment of its state."""
        return datetime.fromisoformat(str((self.state or {})["timestamp"]))

    @property
    def workspace_uids(self) -> set[str]:
        """The uid of the run's Workspace; empty where the watcher did not start it."""
        return {t.removeprefix(_UID_TAG) for t in self.tags if t.startswith(_UID_TAG)}

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state_type in _ENDED

    @property
    def is_paused(self) -> bool:
        """Whether it waits to be resumed by somebody."""
        return self.state_type == "PAUSED"


class PrefectApi:
    """The server that PREFECT_API_URL names; busy or away, it is asked again for minutes.

    Raises, from every method: PrefectUnavailable.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, *, waits_s: Sequence[float] = _WAITS_S
    ) -> None:
        """What to ask, and how often.

        Args:
            environment: PREFECT_API_URL, and PREFECT_API_KEY or PREFECT_API_AUTH_STRING.
            waits_s: after each failure but the last; empty = a person waits for the answer.
        """
        self._waits_s = waits_s
        # Told of each request: its method, the status (0 = no answer) and the seconds it took.
        self.on_answer: Callable[[str, int, float], None] | None = None
        self._url = environment["PREFECT_API_URL"].rstrip("/")
        # The authorities of TLS take 5 MB, which a server inside the cluster needs not.
        is_secured = self._url.startswith("https:")
        self._client = httpx2.AsyncClient(
            timeout=_TIMEOUT_S, headers=_login(environment), verify=is_secured
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def deployment_id(self, flow: str, name: str) -> UUID:
        """The id of a flow's deployment; a worker registers it when it starts."""
        found = await self._ask("GET", f"/deployments/name/{flow}/{name}")
        return UUID(found["id"])

    async def create_run(self, deployment: UUID, body: Mapping[str, Any]) -> Run:
        """The run of this idempotency key: a new one, or the one that there is."""
        return Run.model_validate(
            await self._ask("POST", f"/deployments/{deployment}/create_flow_run", body)
        )

    async def run(self, run_id: UUID) -> Run | None:
        """The run of an id; None when somebody has deleted it."""
        found = await self._runs({"id": {"any_": [str(run_id)]}})
        return found[0] if found else None

    async def said_by(self, run: Run) -> list[str]:
        """What each of a run's states said of itself, from its first one on."""
        states = await self._ask("GET", f"/flow_run_states/?flow_run_id={run.id}")
        return [str(each.get("message") or "") for each in states]

    async def schedules(self, deployment: UUID) -> list[dict[str, Any]]:
        """A deployment's schedules: of each its id, its slug and the body that Prefect has."""
        found = await self._ask("GET", f"/deployments/{deployment}/schedules")
        return [
            {"id": UUID(each["id"]), "slug": each.get("slug") or "", "body": each} for each in found
        ]

    async def add_schedule(self, deployment: UUID, body: Mapping[str, Any]) -> None:
        """Have one more schedule, by the name in its slug."""
        await self._ask("POST", f"/deployments/{deployment}/schedules", [body])

    async def change_schedule(
        self, deployment: UUID, schedule: UUID, body: Mapping[str, Any]
    ) -> None:
        """Have other words in a schedule; those that are not named stay."""
        await self._ask("PATCH", f"/deployments/{deployment}/schedules/{schedule}", body)

    async def remove_schedule(self, deployment: UUID, schedule: UUID) -> None:
        """Have a schedule no more, nor the runs that it has planned."""
        await self._ask("DELETE", f"/deployments/{deployment}/schedules/{schedule}")

    async def runs_with(self, tags: Sequence[str]) -> list[Run]:
        """The runs that have all of the tags."""
        return await self._runs({"tags": {"all_": [*tags]}})

    async def workers_of(self, pool: str) -> list[dict[str, Any]]:
        """The workers that have asked for runs of a work pool, each as Prefect keeps it."""
        found: list[dict[str, Any]] = await self._ask("POST", f"/work_pools/{pool}/workers/filter")
        return found

    async def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Have events in Prefect's feed, and automations act on them."""
        now = datetime.now(UTC).isoformat()
        given = [{"id": str(uuid4()), "occurred": now, "related": [], **each} for each in events]
        await self._ask("POST", "/events", given)

    async def crashed_runs(self) -> list[Run]:
        """Runs that their worker lost."""
        return await self._runs({"state": {"type": {"any_": ["CRASHED"]}}})

    async def workspaces_with_run(self) -> set[str]:
        """The uids of the Workspaces that a run waits for, or works on."""
        found: set[str] = set()
        return found.union(*(run.workspace_uids for run in await self.alive_runs(RUN_TAG)))

    async def alive_runs(self, tag: str) -> list[Run]:
        """All runs with a tag that have not ended."""
        chosen = {"tags": {"all_": [tag]}, "state": {"type": {"any_": [*_ALIVE]}}}
        found: list[Run] = []
        for page in itertools.count():
            runs = await self._runs(chosen, offset=page * _PAGE)
            found += runs
            if len(runs) < _PAGE:
                break
        return found

    async def set_state(self, run: Run, kind: str, *, message: str = "") -> None:
        """Ask for a run's next state, such as CANCELLING; the server may refuse it."""
        state = {"type": kind, "name": kind.capitalize(), "message": message}
        await self._ask("POST", f"/flow_runs/{run.id}/set_state", {"state": state})

    async def end(self, run: Run, kind: str, *, name: str = "", message: str) -> None:
        """Have a run be in a state that ends it, whatever it is in; kind: such as COMPLETED."""
        state = {"type": kind, "name": name or kind.capitalize(), "message": message}
        body = {"state": state, "force": True}
        await self._ask("POST", f"/flow_runs/{run.id}/set_state", body)

    async def _runs(self, chosen: Mapping[str, Any], *, offset: int = 0) -> list[Run]:
        body = {"flow_runs": chosen, "sort": "ID_DESC", "limit": _PAGE, "offset": offset}
        found = await self._ask("POST", "/flow_runs/filter", body)
        return [Run.model_validate(each) for each in found]

    async def _ask(self, method: str, route: str, body: Body | None = None) -> Any:
        said = ""
        for wait_s in (*self._waits_s, None):
            try:
                answer = await self._answer(method, route, body)
                if answer.is_success:
                    return answer.json() if answer.content else None
                said = f"HTTP {answer.status_code} {answer.text[:200]}"
                if answer.status_code not in _AGAIN:
                    break
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                said = f"nothing, the address is none ({error})"
                break
            except httpx2.TransportError as error:
                said = f"{type(error).__name__} {error}"
            if wait_s is None:
                break
            logger.warning("prefect did not answer route=%s: %s", route, said)
            await asyncio.sleep(wait_s)
        raise PrefectUnavailable(
            f"{method} {route} was asked of the Prefect server at {self._url}",
            f"it said {said}",
            "see that it runs, and that PREFECT_API_URL and its key are right",
        )

    async def _answer(self, method: str, route: str, body: Body | None) -> httpx2.Response:
        """The server's answer; one that wants a token for changes is asked for that first."""
        url = f"{self._url}{route}"
        began_s, status = time.monotonic(), 0
        try:
            answer = await self._client.request(method, url, json=body)
            status = answer.status_code
        finally:
            if self.on_answer:
                self.on_answer(method, status, time.monotonic() - began_s)
        if answer.status_code != httpx2.codes.FORBIDDEN or "CSRF" not in answer.text:
            return answer
        mine = str(uuid4())
        token = await self._client.get(f"{self._url}/csrf-token", params={"client": mine})
        if not token.is_success:
            return token
        made = {"Prefect-Csrf-Token": token.json()["token"], "Prefect-Csrf-Client": mine}
        self._client.headers.update(made)
        return await self._client.request(method, url, json=body)


def _login(environment: Mapping[str, str]) -> dict[str, str]:
    if key := environment.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if login := environment.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    return {}
