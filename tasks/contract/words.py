"""What each word that a user can write does, and what is told of one that does nothing. Pure.

`words.yaml` is the table; training_config.yaml has its own, `accepted.yaml`.
"""

import difflib
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.quantity import parse_quantity
from tasks.contract.workspace import STOPPED_ANNOTATION, Workspace

Kind = Literal["fields", "annotations", "labels", "environment"]
Acts = Literal["at once", "with the next node", "with the next tuning", "with the next retuning"]

# Domains in which every word is one of KAITO's or of ours; scaledobject.kaito.sh is of its scaler.
_OURS = re.compile(r"((inference|workspace|inferenceset|multiroleinference)[.])?kaito([.]sh|[.]io)")
_OUR_OWN = "kaitoflow.io"
_OF_TUNING: tuple[Acts, ...] = ("with the next tuning", "with the next retuning")


class Word(BaseModel):
    """One row: what a word does, or why it does nothing here.

    acts: of an annotation, when an edit of it takes effect on a Workspace that is there.
    values: all that it may have; empty = any. default: a value that asks for nothing.
    is_list: several may stand there, with commas between them.
    is_quantity: the numbers are quantities of Kubernetes, such as 500m and 16Gi.
    pattern: of what it may have, and such_as: an example.
    beside: another annotation, and its values, or what they begin with, beside which alone the word
        does something.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    does: str = ""
    none: str = ""
    acts: Acts | None = None
    values: tuple[str, ...] = ()
    default: str | None = None
    least: int | float | str | None = Field(default=None, alias="from")
    most: int | float | str | None = Field(default=None, alias="to")
    is_list: bool = Field(default=False, alias="list")
    is_quantity: bool = Field(default=False, alias="quantity")
    pattern: str = ""
    such_as: str = ""
    beside: Mapping[str, tuple[str, ...]] = {}

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
        several = ", or several with commas between them" if self.is_list else ""
        if self.values:
            return " or ".join(f'"{value}"' for value in self.values) + several
        if self.pattern:
            return f'a name such as "{self.such_as}"{several}'
        if self.least is None:
            return ""
        kind = "a quantity such as 500m or 16Gi," if self.is_quantity else "a number"
        return f"{kind} from {self.least} to {self.most}"

    def takes(self, value: str) -> bool:
        """Whether it is one of the values that the word may have."""
        if self.is_list:
            parts = [part.strip() for part in value.split(",")]
            return any(parts) and all(self._takes_one(part) for part in parts if part)
        return self._takes_one(value)

    def _takes_one(self, value: str) -> bool:
        if self.least is not None and self.most is not None:
            number = self._number(value)
            return self._number(self.least) <= number <= self._number(self.most)
        if self.pattern:
            return re.fullmatch(self.pattern, value) is not None
        return not self.values or value in self.values

    def _number(self, text: float | str) -> float:
        """The number that a text spells; not a number where it spells none."""
        try:
            return parse_quantity(text) if self.is_quantity else float(text)
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


def acted_on(workspace: Workspace) -> list[str]:
    """The annotations that a run of the Workspace acts on, as `name=value`.

    Whether it is stopped is no run's to act on.
    """
    annotations = sorted(workspace.metadata.annotations.items())
    return [
        f"{name}={value}"
        for name, value in annotations
        if _is_ours(name) and name != STOPPED_ANNOTATION
    ]


def edited_annotations(before: Collection[str], workspace: Workspace) -> list[str]:
    """Names of the annotations that are other ones than those that a run acted on (`acted_on`)."""
    changed = {*before} ^ {*acted_on(workspace)}
    return sorted({each.partition("=")[0] for each in changed})


def acts_at_once(annotation: str) -> bool:
    """Whether an edit of the annotation takes effect on a Workspace that is settled."""
    word = words("annotations").get(annotation)
    return word is not None and word.acts == "at once"


def acts_on_retuning(annotation: str) -> bool:
    """Whether the annotation is about retuning alone: no edit of it makes another generation."""
    word = words("annotations").get(annotation)
    return word is not None and word.acts == "with the next retuning"


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
        word = words("annotations").get(name)
        if word and word.none:
            yield f"annotation {name}: {word.none}"
        elif word and word.acts in _OF_TUNING and not workspace.tuning:
            yield f"annotation {name}: nothing is tuned"
        elif word:
            yield from _not_beside(name, word, workspace.metadata.annotations)
    for name in workspace.metadata.labels:
        word = words("labels").get(name)
        if word and word.none:
            yield f"label {name}: {word.none}"
        elif word is None and _is_ours(name):
            yield f"label {name}: {_no_label(name)}"


def _not_beside(name: str, word: Word, given: Mapping[str, str]) -> Iterator[str]:
    """That the word does nothing, since another one that it needs is not there."""
    for other, values in word.beside.items():
        if (given.get(other, "").split() or [""])[0] not in values:
            yield f"annotation {name}: {other} is not {' or '.join(values)}"


def _no_label(name: str) -> str:
    if name in words("annotations"):
        return "it is an annotation's name"
    near = difflib.get_close_matches(name, [*words("labels"), *words("annotations")], n=1)
    return f"there is no such word (did you mean {near[0]}?)" if near else "there is no such word"


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
