"""The command line in a process that kills itself at a moment of its run.

Run as: python -m tests.flows.dying "begin tune" retune NAME
"""

import os
import signal
import sys
from collections.abc import Iterator

from flows.__main__ import main
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Workspace
from tasks.platform.local import LocalPlatform


def done(before: WorkspaceStatus, after: WorkspaceStatus) -> Iterator[str]:
    """What a run has done by the time that it writes this status, and has told nobody of yet."""
    yield from (f"end {step.name}" for step in after.steps if step not in before.steps)
    if after.adapters.serving != before.adapters.serving:
        yield "end promotion"


def told(before: WorkspaceStatus, after: WorkspaceStatus) -> Iterator[str]:
    """What is known once this status is written."""
    if after.progress.step_name != before.progress.step_name:
        yield f"begin {after.progress.step_name}"
    if after.adapters.serving != before.adapters.serving:
        yield "promoted"
    if after.adapters.told != before.adapters.told:
        yield "told"


def die_at(moment: str) -> None:
    """Have this process killed at that moment, with whatever it has in memory and open."""
    write_status = LocalPlatform.write_status

    async def watched(self: LocalPlatform, workspace: Workspace, status: WorkspaceStatus) -> None:
        before = await self.read_status(workspace)
        if moment in done(before, status):
            os.kill(os.getpid(), signal.SIGKILL)
        await write_status(self, workspace, status)
        if moment in told(before, status):
            os.kill(os.getpid(), signal.SIGKILL)

    LocalPlatform.write_status = watched  # type: ignore[method-assign]


if __name__ == "__main__":
    die_at(sys.argv[1])
    sys.argv = ["kaitoflow", *sys.argv[2:]]
    sys.exit(main())
