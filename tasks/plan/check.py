"""One line of a plan: from what a look says, or from the error that it ends with."""

from collections.abc import Callable

from tasks.contract.artifacts import Check
from tasks.contract.errors import KaitoflowError, Refused
from tasks.platform.diagnosis import Diagnosis


def checked(name: str, look: Callable[[], Check | str]) -> Check:
    """A check whose refusal is a typed error and whose success is a line of detail."""
    try:
        said = look()
    except KaitoflowError as error:
        return from_error(name, error, result="fail")
    return said if isinstance(said, Check) else Check(name=name, result="ok", detail=said)


def not_told(name: str, error: KaitoflowError, *, before: str = "") -> Check:
    """A look at others that did not end well: their no is a no, their silence only a warning.

    Args: before: what is known without them.
    """
    result = "fail" if isinstance(error, Refused) else "warn"
    check = from_error(name, error, result=result)
    return check.model_copy(update={"detail": f"{before}; {check.detail}"}) if before else check


def not_seen(
    name: str, error: KaitoflowError, *, before: str, fix: str, how: str = "was not asked"
) -> Check:
    """A warning of what cannot be looked at from here, and can from where the run needs it.

    Args: before: what is known all the same. how: it was not looked at.
    """
    detail = f"{before}; {error.asked}, and {how} from here"
    return Check(name=name, result="warn", detail=detail, fix=fix)


def from_diagnosis(name: str, told: Diagnosis, *, stops: bool) -> Check:
    """A line that shows what is wrong with an object, and whether it stops the run."""
    return Check(
        name=name,
        result="fail" if stops else "warn",
        detail="; ".join(part for part in (told.asked, told.found) if part),
        fix=told.fix,
        reason=told.reason,
    )


def from_error(name: str, error: KaitoflowError, *, result: str) -> Check:
    """A line that shows an error, with its fix apart."""
    return Check.model_validate(
        {
            "name": name,
            "result": result,
            "detail": error.problem,
            "fix": error.fix,
            "reason": error.reason,
        }
    )
