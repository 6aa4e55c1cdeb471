"""What each word that a user can write does, and what is told of one that does nothing. Pure.

`words.yaml` is the table; training_config.yaml has its own, `accepted.yaml`.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from math import inf
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.workspace import Workspace

Kind = Literal["fields", "annotations", "labels", "environment"]

# Domains in which every word is one of KAITO's or of ours; scaledobject.kaito.sh is of its scaler.
_OURS = re.compile(r"((inference|workspace|inferenceset|multiroleinference)[.])?kaito([.]sh|[.]io)")
_OUR_OWN = "kaitoflow.io"


class Word(BaseModel):
    """One row: what a word does, or why it does nothing here.

    values: all that it may have, in any case; empty = any. default: a value that asks for nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    does: str = ""
    none: str = ""
    values: tuple[str, ...] = ()
    default: str | None = None
    least: float = Field(default=-inf, alias="from")
    most: float = Field(default=inf, alias="to")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        return {"does": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one_verdict(self) -> Self:
        if bool(self.does) == bool(self.none):
            raise ValueError("a word either does something or has no effect; give one of both")
        return self

    @property
    def expected(self) -> str:
        """What a value has to be, to be read after "use"; empty = anything."""
        if self.values:
            return " or ".join(f'"{value}"' for value in self.values)
        return f"a number from {self.least:g} to {self.most:g}" if self._is_number else ""

    def takes(self, value: str) -> bool:
        """Whether it is one of the values that the word may have."""
        if self._is_number:
            return self.least <= _number(value) <= self.most
        return not self.values or value in self.values

    @property
    def _is_number(self) -> bool:
        return self.least > -inf


def _number(text: str) -> float:
    """The number that a text spells; not a number where it spells none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


@functools.cache
def words(kind: Kind) -> Mapping[str, Word]:
    """Every row of a kind by its word."""
    text = files(__package__).joinpath("words.yaml").read_text(encoding="utf-8")
    return {name: Word.model_validate(row) for name, row in yaml.safe_load(text)[kind].items()}


def expect_annotations(workspace: Workspace) -> None:
    """Nothing, if each annotation of KAITO's and of ours is known and has a value that it may have.

    Raises: InvalidWorkspace.
    """
    for name, value in workspace.metadata.annotations.items():
        word = words("annotations").get(name)
        if word is None and _is_ours(name):
            raise InvalidWorkspace(f"annotation {name} is set", "there is none", _near(name))
        if word and not word.takes(value):
            raise InvalidWorkspace(
                f"annotation {name} is {value!r}", "that has no meaning", f"use {word.expected}"
            )


def _is_ours(name: str) -> bool:
    domain = name.partition("/")[0]
    return domain == _OUR_OWN or _OURS.fullmatch(domain) is not None


def _near(name: str) -> str:
    known = list(words("annotations"))
    near = difflib.get_close_matches(name, known, n=1)
    return f"write {near[0]}, or remove it" if near else f"remove it; there are {', '.join(known)}"


def without_effect(workspace: Workspace) -> Iterator[str]:
    """What the Workspace asks for and does not get here, each with the reason."""
    given = workspace.model_dump(by_alias=True, exclude_unset=True, exclude={"metadata"})
    for path, value in _leaves(given):
        word = words("fields").get(path)
        if word and word.none and value not in (word.default, "", None):
            yield f"{path.replace('[]', '')}: {word.none}"
    for name in workspace.metadata.annotations:
        if (word := words("annotations").get(name)) and word.none:
            yield f"annotation {name}: {word.none}"
    for name in workspace.metadata.labels:
        if (word := words("labels").get(name)) and word.none:
            yield f"label {name}: {word.none}"


def _leaves(given: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that is no part of a Workspace, by its path; free-form objects count as one."""
    if path in words("fields"):
        yield path, given
    elif isinstance(given, list):
        for each in given:
            yield from _leaves(each, f"{path}[]")
    elif isinstance(given, Mapping):
        for key, value in given.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)


def unknown_variables(environment: Iterable[str], *, settings: Iterable[str]) -> Iterator[str]:
    """The variables that look like settings of ours and are none, each with a near one.

    Args: settings: the names of the fields of the installation's settings.
    """
    known = {f"KAITOFLOW_{name.upper()}" for name in settings} | set(words("environment"))
    for name in sorted(environment):
        if name.startswith("KAITOFLOW_") and name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            yield f"{name}: there is no such setting{meant}"
