"""How often what had left the asked state was run again, and when it may be the next time. Pure.

A Workspace whose objects or nodes are gone is repaired at once, one that failed by the world's
fault is looked at again after a while; either comes the later the more often it has come.
"""

from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from tasks.contract.units import utc_moment, utc_text

_AFTER_REPAIR_S, _LONGEST_AFTER_REPAIR_S = 10.0, 600.0
_AFTER_FAILURE_S, _LONGEST_AFTER_FAILURE_S = 30.0, 3600.0
# Where nobody tells of a change, a look is all there is: a run that only plans, every five minutes.
_LONGEST_UNHEARD_S = 300.0
# A Workspace that has stood for so long since it might have been run again counts anew.
_QUIET = timedelta(hours=1)


class Repairs(BaseModel):
    """The runs of one generation that followed a run of it which had ended.

    count: since the Workspace was last quiet. reason: of the last one.
    not_before: when the next may begin; empty = at once.
    restores: whether the last one is only to give what serves back what it has lost, and runs
    nothing of a generation that was refused or has failed.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    count: int = 0
    reason: str = ""
    not_before: str = ""
    restores: bool = False

    def may_begin(self, now: datetime) -> bool:
        """Whether the Workspace may be run again now."""
        return not self.not_before or now >= utc_moment(self.not_before)

    def may_restore(self, now: datetime) -> bool:
        """Whether what serves may be restored now, however long what has failed beside it waits."""
        return not self.restores or self.may_begin(now)

    @property
    def next_look(self) -> str:
        """When a Workspace that has failed is run again, in words."""
        return f"looked at again at {utc_moment(self.not_before):%H:%M} UTC"

    def begun(self, reason: str, now: datetime, *, restores: bool = False) -> "Repairs":
        """The same after another run has begun: the next one waits, twice as long as this did."""
        was_quiet = bool(self.not_before) and now > utc_moment(self.not_before) + _QUIET
        count = 1 if was_quiet else self.count + 1
        pause_s = _doubled(_AFTER_REPAIR_S, count - 1, _LONGEST_AFTER_REPAIR_S)
        not_before = _in(pause_s, now)
        return Repairs(count=count, reason=reason, not_before=not_before, restores=restores)

    def after_failure(
        self, now: datetime, *, cost_service: bool = False, is_unheard: bool = False
    ) -> "Repairs":
        """The same after a run has failed by the world's fault.

        Args: cost_service: whether a server paused for it, which is not to flap. is_unheard:
        whether nobody tells when that is mended.
        """
        longest_s = _LONGEST_UNHEARD_S if is_unheard else _LONGEST_AFTER_FAILURE_S
        pause_s = _doubled(_AFTER_FAILURE_S, self.count, longest_s)
        if cost_service:
            pause_s = _LONGEST_AFTER_FAILURE_S
        return self.model_copy(update={"not_before": _in(pause_s, now)})


def _doubled(first_s: float, times: int, longest_s: float) -> float:
    return min(first_s * float(2 ** min(times, 30)), longest_s)


def _in(pause_s: float, now: datetime) -> str:
    return utc_text(now + timedelta(seconds=pause_s))
