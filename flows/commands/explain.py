"""`kaitoflow explain`: what a reason means, and what to do about it."""

import difflib
import sys

from tasks.contract.errors import Refused
from tasks.contract.explanation import explanations


class ReasonUnknown(Refused):
    """No condition has the reason that is asked for."""


def explain_reason(reason: str | None) -> int:
    """Print what a reason means and what to do; without one, all with what they mean.

    Raises: ReasonUnknown.
    """
    known = explanations()
    if reason is None:
        width = max(map(len, known))
        sys.stdout.writelines(f"{e.reason:<{width}}   {e.meaning}\n" for e in known.values())
        return 0
    by_word = {name.lower(): each for name, each in known.items()}
    found = by_word.get(reason.lower())
    if found is None:
        near = difflib.get_close_matches(reason, known, n=3)
        offer = f"did you mean {', '.join(near)}? " if near else ""
        raise ReasonUnknown(
            f"reason {reason!r} was to be explained",
            f"there are {len(known)}, and this is none of them",
            f"{offer}`kaitoflow explain` lists all",
        )
    sys.stdout.write(f"{found.reason} ({found.fate})\n{found.meaning}\n{found.fix}\n")
    return 0
