"""The model that is to judge candidates, as far as it can be asked beforehand. Pure."""

from tasks.contract.artifacts import Check
from tasks.contract.errors import AddressForbidden, KaitoflowError
from tasks.contract.judge import Judge, judge_key_secret
from tasks.contract.workspace import Workspace
from tasks.plan.check import not_seen, not_told
from tasks.plan.findings import Findings
from tasks.platform.base import World

_NAME = "judge"
_MODELS_TOLD = 5


def judge(workspace: Workspace, asked: Judge, world: World, findings: Findings) -> Check | str:
    """Who judges, and whether it is there."""
    found, key = findings.judge, f"Secret {judge_key_secret(workspace.metadata.name)}"
    if isinstance(found, AddressForbidden) and world.is_cluster:
        fix = "its pod asks, where KAITOFLOW_ALLOW_LOCAL_ADDRESSES lets it"
        return not_seen(_NAME, found, before=str(asked), fix=fix)
    if isinstance(found, KaitoflowError):
        return not_told(_NAME, found, before=str(asked))
    if found is None:
        return str(asked)
    if not found.models:
        return f"{asked}, which does not list its models without a key ({key})"
    if asked.model in found.models:
        return str(asked)
    return Check(
        name=_NAME,
        result="warn",
        detail=f"{asked}, which lists {', '.join(found.models[:_MODELS_TOLD])}",
        fix="name one of these, unless it knows more than it lists",
    )
