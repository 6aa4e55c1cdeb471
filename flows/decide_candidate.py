"""What becomes of a candidate: its gate decides, and then a canary or a person may have a word.

Each step leaves in the status how far it is: a run that was killed and begins again decides once.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from flows.adapter_run import leave_only_server, tell
from flows.promote_adapter import promote, try_beside
from tasks.contract.adapter_history import AdapterHistory, AdapterRecord
from tasks.contract.retuning import Retuning, retuning_of
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Workspace
from tasks.evaluation.verdict import Verdict
from tasks.platform.current import current_platform
from tasks.steps import change_status


async def decide(workspace: Workspace, candidate: AdapterRecord, verdict: Verdict) -> None:
    """Have the candidate serve, be tried out, wait for a person's word or be kept out."""
    asked, name = retuning_of(workspace), f"{workspace.metadata.name}@{candidate.number}"
    if not verdict.passed:
        kept_out = _keeping_out(candidate, by="gate", why=verdict.reason)
        await _note(workspace, candidate, asked, kept_out)
        await tell(workspace, verdict.reason)
    elif asked.promotion == "auto":
        how = await promote(workspace, candidate, by="gate", why=verdict.reason)
        await tell(workspace, f"promoted: {verdict.reason}; {how}")
    elif asked.promotion == "canary":
        await _note(
            workspace,
            candidate,
            asked,
            lambda adapters: adapters.try_out(candidate.number, why=verdict.reason),
        )
        await tell(workspace, f"tries {name} out on {asked.canary}: {verdict.reason}")
    else:
        await _await_word(workspace, candidate, asked, why=verdict.reason)


async def try_candidate_out(workspace: Workspace) -> None:
    """Have the candidate that is on trial, if one is, answer a share of requests, then all.

    What its tuning needed is given back before.
    """
    candidate = (await current_platform().read_status(workspace)).adapters.on_trial
    if candidate is None:
        return
    await leave_only_server(workspace)
    asked = retuning_of(workspace)
    tried = await try_beside(workspace, candidate, asked.canary)
    why = f"{candidate.why}; canary on {asked.canary}: {tried.reason}"
    if tried.verdict == "passed":
        how = await promote(workspace, candidate, by="canary", why=why)
        await tell(workspace, f"promoted: {why}; {how}")
    elif tried.verdict == "tripped":
        kept_out = _keeping_out(candidate, by="canary", why=why)
        await _note(workspace, candidate, asked, kept_out)
        await tell(workspace, f"kept out {workspace.metadata.name}@{candidate.number}: {why}")
    else:
        # It has shown neither: too few have asked, or the server could not be asked to try it.
        await _await_word(workspace, candidate, asked, why=why)


async def _await_word(
    workspace: Workspace, candidate: AdapterRecord, asked: Retuning, *, why: str
) -> None:
    answer_by = datetime.now(UTC) + timedelta(seconds=asked.approval_timeout_s)
    status = await _note(
        workspace,
        candidate,
        asked,
        lambda adapters: adapters.await_word(candidate.number, why=why, answer_by=answer_by),
    )
    until = status.adapters.find(candidate.number).answer_by
    said = f"waits for `kaitoflow promote {workspace.metadata.name}`"
    await tell(workspace, f"{said}, or a word in Prefect's UI, until {until}: {why}")


async def _note(
    workspace: Workspace,
    candidate: AdapterRecord,
    asked: Retuning,
    decision: Callable[[AdapterHistory], None],
) -> WorkspaceStatus:
    """The status, once it tells of the candidate and of what was decided about it."""

    def note(status: WorkspaceStatus) -> None:
        status.adapters.add_candidate(candidate)
        decision(status.adapters)
        status.adapters.keep(asked.history_limit)

    return await change_status(workspace, note)


def _keeping_out(
    candidate: AdapterRecord, *, by: str, why: str
) -> Callable[[AdapterHistory], None]:
    return lambda adapters: adapters.keep_out(candidate.number, by=by, why=why)
