"""What a plan refuses is refused, whoever is at fault."""

import pytest

from tasks.contract.artifacts import Check, Plan
from tasks.contract.errors import InvalidWorkspace, KaitoflowError, QuotaExceeded, error_from_reason
from tasks.plan.task import check_workspace
from tests.builders import tuning_workspace

FULL = Check(name="cluster rules", result="fail", detail="full", fix="wait", reason="QuotaExceeded")
WRONG = Check(name="words", result="fail", detail="no", fix="remove it", reason="InvalidWorkspace")


async def refusal(*checks: Check) -> KaitoflowError:
    with pytest.raises(KaitoflowError) as refused:
        await check_workspace.fn(tuning_workspace(), Plan(checks=[*checks]))
    return refused.value


async def test_a_cluster_without_room_refuses_as_a_wrong_word_does() -> None:
    full, wrong = await refusal(FULL), await refusal(WRONG)
    assert (type(full), type(wrong)) == (QuotaExceeded, InvalidWorkspace)
    assert full.refuses
    assert wrong.refuses
    assert not error_from_reason("QuotaExceeded", asked="", found="", fix="").refuses


async def test_every_line_that_failed_is_told_under_the_reason_of_the_first() -> None:
    both = await refusal(WRONG, FULL)
    assert type(both) is InvalidWorkspace
    assert str(both) == "words: no; remove it\ncluster rules: full; wait"
    assert str(await refusal(FULL)) == "cluster rules: full; wait"
