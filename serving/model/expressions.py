"""Whether the expressions that an adapter brings can be matched with the names of a model's layers.

PEFT matches them while it loads, in the engine's own thread and under Python's lock: one that
backtracks would hold every request for years. So they are matched in another process first.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tasks.contract import apart
from tasks.contract.errors import AdapterMismatch

_NAME = re.compile(r"\^?[\w.-]+")
# What PEFT writes around the keys of patterns and around names, where it matches.
_AROUND = {
    "rank_pattern": r"(.*\.)?({})$",
    "alpha_pattern": r"(.*\.)?({})$",
    "target_modules": r"(?:{})\Z",
    "exclude_modules": r"(?:{})\Z",
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "modules_to_save": r"(^|.*\.){}($|\..*)",
}


def expect_ending(adapter: str, config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Nothing, if each expression of an adapter's configuration can be matched with each name.

    Raises: AdapterMismatch.
    """
    expressions = list(_expressions(config))
    if not expressions:
        return
    try:
        fault = apart.ask(__name__, {"expressions": expressions, "names": list(names)})
    except apart.Overrun as error:
        fault = str(error)
    if fault:
        raise AdapterMismatch(
            f"adapter {adapter} names layers by {' and '.join(expressions)!r:.100}",
            f"that cannot be matched with the model's ({fault})",
            "name them one by one in its adapter_config.json",
        )


def _expressions(config: Mapping[str, Any]) -> Iterator[str]:
    for field, around in _AROUND.items():
        asked = config.get(field) or ()
        if field in {"target_modules", "exclude_modules"} and not isinstance(asked, str):
            continue  # names, which PEFT compares
        for word in [asked] if isinstance(asked, str) else asked:
            if not _NAME.fullmatch(str(word)):
                yield around.replace("{}", str(word))


def _fault(asked: Mapping[str, Any]) -> str:
    """Why one of the expressions cannot be matched; "" = each can."""
    try:
        for expression in map(re.compile, asked["expressions"]):
            for name in asked["names"]:
                expression.match(name)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    apart.serve(_fault)
