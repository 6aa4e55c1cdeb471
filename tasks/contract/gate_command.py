"""A command of a person's own that scores candidates, where the gate's metric is one. Pure.

It finds what it scores by variables of its environment, and tells its scores in the last line that
it prints which begins as a JSON object does.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.contract.errors import GateCommandFailed, GateCommandUnusable, InvalidWorkspace, Refused
from tasks.contract.gate import GATE_ANNOTATION, Metric, parse_gate
from tasks.contract.image_reference import parse_reference

GATE_COMMAND_ANNOTATION = "kaitoflow.io/gate-command"
# Where an image would stand: the command is a process of this machine.
NO_IMAGE = "-"
# Of all that a command says; a line of scores of a thousand rows has a hundredth of it.
MOST_CHARS = 4 * 2**20

_EXAMPLE = "ghcr.io/example/score:1 python /score.py"
_GRAMMAR = f'write an image and the command that it is to run, as "{_EXAMPLE}"'
_LAST_WORDS, _SHOWN_CHARS = 3, 300


@dataclass(frozen=True, kw_only=True)
class GateCommand:
    """A command, and the image it is run in; image: empty = it is a process of this machine."""

    image: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{shlex.join(self.words)} in {self.image or 'a process of this machine'}"


@dataclass(kw_only=True)
class Heard:
    """What a command says, as far as it is kept: where its scores are, and its last words."""

    scores: str = ""
    last: list[str] = field(default_factory=list)
    chars: int = 0

    def hear(self, line: str) -> None:
        """Take in a line.

        Raises: GateCommandUnusable: it says too much, so that nobody has to keep it.
        """
        self.chars += len(line) + 1
        if self.chars > MOST_CHARS:
            raise GateCommandUnusable(
                "the gate's command was to tell its scores",
                f"it has said more than {MOST_CHARS >> 20} MiB",
                "have it say less: only the line with its scores is read",
            )
        if line.startswith("{"):
            self.scores = line
        if line.strip():
            self.last = [*self.last[1 - _LAST_WORDS :], line]

    def failure(self, ended: str) -> GateCommandFailed:
        """That it has not ended well.

        Args: ended: how, such as `with exit code 2`.
        """
        said = " | ".join(self.last)[-_SHOWN_CHARS:] or "nothing"
        return GateCommandFailed(
            "the gate's command was to score the candidate",
            f"it ended {ended} (the last it said: {said})",
            f"mend what annotation {GATE_COMMAND_ANNOTATION} names, and retune the Workspace",
        )


def gate_command_of(annotations: Mapping[str, str]) -> GateCommand | None:
    """The command that the gate of a Workspace with these annotations asks; None = it asks none.

    Raises: InvalidWorkspace, ImageReferenceInvalid.
    """
    gate = parse_gate(annotations.get(GATE_ANNOTATION))
    if gate.metric is not Metric.COMMAND:
        return None
    text = annotations.get(GATE_COMMAND_ANNOTATION)
    if text is None:
        raise InvalidWorkspace(
            f"annotation {GATE_ANNOTATION} is {annotations[GATE_ANNOTATION]!r}",
            "nobody says which command scores",
            f"annotate {GATE_COMMAND_ANNOTATION}: {_GRAMMAR}",
        )
    return parse_gate_command(text)


def gate_command_or_none(annotations: Mapping[str, str]) -> GateCommand | None:
    """The same, and none where it cannot be read, which is told elsewhere."""
    try:
        return gate_command_of(annotations)
    except Refused:
        return None


def environment_of(
    *, rows: Path, weights: Path, candidate: Path, serving: Path | None
) -> tuple[tuple[str, str], ...]:
    """The variables by which a command finds what it scores; of nothing that serves there is none.

    Args: rows: a file with what each model answered to held-out rows; the others are folders.
    """
    given = {"ROWS": rows, "WEIGHTS": weights, "CANDIDATE": candidate, "SERVING": serving}
    return tuple((f"KAITOFLOW_GATE_{name}", str(path)) for name, path in given.items() if path)


def parse_gate_command(text: str) -> GateCommand:
    """The command that the annotation's text spells, quoted as for a shell, which there is none of.

    Raises: InvalidWorkspace, ImageReferenceInvalid.
    """
    try:
        image, *words = shlex.split(text)
    except ValueError as error:
        found = "it is empty" if not text.strip() else f"it cannot be read ({error})"
        raise _wrong(text, found) from None
    if not words:
        raise _wrong(text, f"it names {image!r} alone, and no command")
    if image == NO_IMAGE:
        return GateCommand(image="", words=tuple(words))
    parse_reference(image)
    return GateCommand(image=image, words=tuple(words))


def expect_runnable(command: GateCommand, *, is_cluster: bool, allow_commands: bool) -> None:
    """Nothing, if the command can be run where the Workspace's pods run.

    Args: allow_commands: a Workspace may name what runs as a process of this machine.
    Raises: InvalidWorkspace.
    """
    asked = f"annotation {GATE_COMMAND_ANNOTATION} asks for {command}"
    if is_cluster and not command.image:
        raise InvalidWorkspace(asked, "on a cluster a command is run in an image", _GRAMMAR)
    if command.image and not is_cluster:
        raise InvalidWorkspace(
            asked,
            "on one machine there is nothing that runs images",
            f'write {NO_IMAGE} for the image and a command of this machine, as "{NO_IMAGE} python3 '
            '/home/me/score.py", or have the Workspace retuned on a cluster',
        )
    if not (is_cluster or allow_commands):
        raise InvalidWorkspace(
            asked,
            "a Workspace's file may not have this machine run commands, unless you say so",
            "read what it would run, and set KAITOFLOW_ALLOW_COMMANDS=true where kaitoflow starts",
        )


def _wrong(text: str, found: str) -> InvalidWorkspace:
    return InvalidWorkspace(f"annotation {GATE_COMMAND_ANNOTATION} is {text!r}", found, _GRAMMAR)
