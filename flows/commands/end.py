"""`kaitoflow stop` and `kaitoflow delete`."""

import asyncio
import sys

from flows.commands.show import find_workspace
from tasks.errors import InvalidWorkspace
from tasks.platform import local_platform
from tasks.status import ConditionType


def stop_workspace(name: str, *, namespace: str) -> int:
    """Stop what runs for a Workspace; its files stay, so that `run` resumes."""
    stored = find_workspace(name, namespace)
    platform = local_platform()
    stopped = asyncio.run(platform.stop(stored.workspace))
    status = platform.store.read_status(stored.workspace)
    if status.is_true(ConditionType.INFERENCE_READY):
        status.set_condition(
            ConditionType.INFERENCE_READY,
            status="False",
            reason="Stopped",
            message="the server was stopped; `kaitoflow run` or the run's form starts it again",
        )
        platform.store.write_status(stored.workspace, status)
    what = ", ".join(stopped) if stopped else "nothing was running"
    sys.stdout.write(f"workspace/{name} stopped ({what})\n")
    return 0


def delete_workspace(name: str, *, namespace: str, yes: bool) -> int:
    """Stop a Workspace and forget it with its files."""
    stored = find_workspace(name, namespace)
    if not yes and not _confirmed(name):
        return 1
    asyncio.run(local_platform().delete(stored.workspace))
    sys.stdout.write(f"workspace/{name} deleted\n")
    return 0


def _confirmed(name: str) -> bool:
    if not sys.stdin.isatty():
        raise InvalidWorkspace(
            f"workspace {name} was to be deleted; nobody is there to confirm it; add --yes"
        )
    answer = input(f"Delete workspace {name} with its logs, checkpoints and adapter? [y/N] ")
    return answer.strip().lower() in ("y", "yes")
