"""How a watcher ends."""

import pytest

from flows.watcher import operator
from flows.watcher.settings import WatcherSettings
from tasks.contract.errors import LeadershipLost

LOST = LeadershipLost("a was to lead", "another replica leads", "start again to follow it")


async def ending(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> BaseException:
    """What `watch` raises when its tasks end with an error."""

    async def end(_settings: WatcherSettings) -> None:
        raise error

    monkeypatch.setattr(operator, "_lead", end)
    with pytest.raises(BaseException) as raised:  # noqa: PT011  which one is what is asked
        await operator.watch(WatcherSettings())
    return raised.value


@pytest.mark.parametrize(
    "group",
    [
        ExceptionGroup("tasks", [LOST]),
        ExceptionGroup("tasks", [OSError("closed"), ExceptionGroup("inner", [LOST])]),
    ],
    ids=["alone", "beside others"],
)
async def test_a_watcher_that_leads_no_more_ends_with_one_sentence(
    group: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = await ending(group, monkeypatch)
    assert error is LOST
    assert error.__suppress_context__


async def test_what_else_ends_a_watcher_is_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    group = ExceptionGroup("tasks", [OSError("closed")])
    assert await ending(group, monkeypatch) is group
