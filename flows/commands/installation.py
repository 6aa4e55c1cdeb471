"""`kaitoflow installation`: what the chart's Jobs run."""

import asyncio
import sys
from collections.abc import Sequence

from flows.installation.passwords import Password, make_passwords
from flows.installation.uninstall import drain, expect_none, was_made_for_an_event
from tasks.platform.kube_api import KubeApi, connect
from tasks.settings import settings

# A new pod may be there before its way to the API server, or before its rights.
_PATIENCE_S = 60.0


def make_passwords_of(texts: Sequence[str]) -> int:
    """Have the passwords in the installation's namespace; those that are there stay as they are."""
    passwords = [Password.parse(text) for text in texts]
    for secret, is_new in asyncio.run(_make(passwords)).items():
        _say(f"secret/{secret} {'made' if is_new else 'kept as it is'}")
    return 0


async def _make(passwords: Sequence[Password]) -> dict[str, bool]:
    api = await connect(patience_s=_PATIENCE_S)
    try:
        return await make_passwords(api, settings().namespace, passwords)
    finally:
        await api.close()


def before_uninstall(*, job: str, is_draining: bool, limit_s: float) -> int:
    """Return when watcher and worker may go; the words of a refusal are in the Job's log."""
    asyncio.run(_look(job, is_draining=is_draining, limit_s=limit_s))
    return 0


async def _look(job: str, *, is_draining: bool, limit_s: float) -> None:
    api = await connect(patience_s=_PATIENCE_S)
    try:
        if not await _is_uninstalled(api, job):
            _say(f"job/{job} was applied with other manifests: nothing is uninstalled")
        elif is_draining:
            await drain(api, settings().namespaces, limit_s=limit_s, tell=_say)
        else:
            await expect_none(api, settings().namespaces)
    finally:
        await api.close()


async def _is_uninstalled(api: KubeApi, job: str) -> bool:
    """Whether the Job that asks was made for that; else Workspaces would be deleted by mistake."""
    found = await api.get("Job", settings().namespace, job)
    return found is not None and was_made_for_an_event(found)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
