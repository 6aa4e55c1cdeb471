"""What each Workspace of a soak asks for, what happens to it, and what must be in the end. Pure.

A subject is one Workspace in a namespace of its own. An act changes what it asks, or does harm to
what it owns; `after` says what is asked then, and `differences` what is not as asked.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from tasks.contract.status import ConditionType, State, WorkspaceStatus, status_of
from tasks.contract.workspace import FINALIZER


class Act(StrEnum):
    """What happens to a Workspace, by a person or by the world."""

    EDIT = "edit what it is trained on"
    TOUCH = "edit what changes nothing"
    REFUSE = "edit it so that it is refused"
    REVERT = "take the edit back"
    DELETE_OBJECT = "delete an object that it owns"
    KILL_POD = "kill a pod"
    LOSE_NODE = "lose a node"
    STOP = "stop it"
    START = "let it go on"
    DELETE = "delete it"
    RECREATE = "apply it anew"
    TAKE_SECRET = "take its Secret away"
    GIVE_SECRET = "give the Secret back"


# Of those, what is done to a Workspace that is there, without a word of its own.
HARM = frozenset({Act.DELETE_OBJECT, Act.KILL_POD, Act.LOSE_NODE})
_OWNED_WHILE_SERVED = ("ConfigMap", "Service", "Service", "StatefulSet")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A Workspace, as it was asked for last.

    dataset: which one it is trained on.
    touches: how often it was edited without effect.
    is_harmed: whether something of it was taken away since the edit that is refused, or before it
    was as asked: what served then cannot be made again, since its Workspace is another one by now.
    trainings: how many Jobs may push for it in all.
    """

    namespace: str
    exists: bool = True
    has_secret: bool = True
    is_stopped: bool = False
    is_refused: bool = False
    is_harmed: bool = False
    dataset: int = 1
    touches: int = 0
    trainings: int = 1

    @property
    def is_disturbed(self) -> bool:
        """Whether it cannot become Ready as it is."""
        return not self.exists or self.is_stopped or self.is_refused or not self.has_secret


def possible(subject: Subject) -> list[Act]:
    """The acts that make sense for the subject as it is, in a fixed order."""
    secret = [Act.TAKE_SECRET if subject.has_secret else Act.GIVE_SECRET]
    if not subject.exists:
        return [Act.RECREATE, *secret]
    stop = [Act.START if subject.is_stopped else Act.STOP]
    edit = [Act.REVERT] if subject.is_refused else [Act.REFUSE, Act.EDIT, Act.TOUCH]
    return [*sorted(HARM), *stop, *edit, Act.DELETE, *secret]


def drawn(chance: random.Random, subjects: Sequence[Subject]) -> tuple[int, Act]:
    """Which subject, and what happens to it; harm and healing are likelier than an end."""
    index = chance.randrange(len(subjects))
    acts = possible(subjects[index])
    weights = [_WEIGHTS.get(act, 1) for act in acts]
    return index, chance.choices(acts, weights)[0]


_WEIGHTS = {
    Act.DELETE_OBJECT: 4, Act.KILL_POD: 2, Act.LOSE_NODE: 2,
    Act.START: 8, Act.RECREATE: 8, Act.GIVE_SECRET: 8, Act.REVERT: 8,
}  # fmt: skip


def after(subject: Subject, act: Act, *, is_settled: bool) -> Subject:
    """What is asked for after the act.

    Args: is_settled: whether it was as asked for; harm to one that was not may have it train again.
    """
    again = 0 if is_settled else 1
    match act:
        case Act.EDIT:
            return replace(
                subject, dataset=subject.dataset + 1, trainings=subject.trainings + 1 + again
            )
        case Act.TOUCH:
            return replace(
                subject, touches=subject.touches + 1, trainings=subject.trainings + again
            )
        case Act.REFUSE:
            return replace(
                subject,
                is_refused=True,
                is_harmed=not is_settled,
                trainings=subject.trainings + again,
            )
        case Act.REVERT:
            return replace(subject, is_refused=False)
        case Act.STOP | Act.START:
            is_stopped = act == Act.STOP
            return replace(subject, is_stopped=is_stopped, trainings=subject.trainings + again)
        case Act.DELETE:
            return replace(subject, exists=False, is_stopped=False, is_refused=False)
        case Act.RECREATE:
            return replace(subject, exists=True, trainings=subject.trainings + 1)
        case Act.TAKE_SECRET | Act.GIVE_SECRET:
            return replace(subject, has_secret=act == Act.GIVE_SECRET)
        case _:
            return replace(
                subject, is_harmed=subject.is_refused, trainings=subject.trainings + again
            )


def healed(subject: Subject) -> Subject:
    """The subject, asked to be what it can be: there, with its Secret, accepted and not stopped."""
    there = subject if subject.exists else after(subject, Act.RECREATE, is_settled=True)
    return replace(there, has_secret=True, is_stopped=False, is_refused=False)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What there is of a Workspace.

    objects: the kinds of what it owns, without those that go by themselves.
    claims: for it. most_pushes_at_once, pushes: of its images, since the soak began.
    """

    workspace: Mapping[str, Any] | None = None
    objects: Sequence[str] = field(default_factory=tuple)
    claims: int = 0
    pushes: int = 0
    most_pushes_at_once: int = 0


def differences(subject: Subject, seen: Seen) -> list[str]:
    """What of a Workspace is not as it is asked for, each in a few words; empty = all is."""
    found = []
    if seen.most_pushes_at_once > 1:
        found.append(f"{seen.most_pushes_at_once} pods pushed to one tag at once")
    if seen.pushes > subject.trainings:
        found.append(f"{seen.pushes} pushes of at most {subject.trainings}")
    if not subject.exists:
        return found + _left(seen)
    if seen.workspace is None:
        return [*found, "it is not there"]
    if FINALIZER not in seen.workspace["metadata"].get("finalizers", ()):
        found.append("it has no finalizer")
    if subject.is_stopped:
        return found + _not_stopped(seen)
    if subject.is_refused:
        return found + _not_refused(seen, is_harmed=subject.is_harmed)
    return found + _not_ready(seen)


def _left(seen: Seen) -> list[str]:
    left = [*seen.objects, *["NodeClaim"] * seen.claims]
    there = ["it is still there"] if seen.workspace else []
    return there + ([f"left behind: {', '.join(left)}"] if left else [])


def _not_stopped(seen: Seen) -> list[str]:
    state = status_of(seen.workspace).state
    found = [] if state == State.STOPPED else [f"it is {state}, and is to be stopped"]
    if seen.claims:
        found.append(f"stopped, it holds {seen.claims} claims")
    return found + [
        f"stopped, it has a {kind}" for kind in ("Job", "StatefulSet") if kind in seen.objects
    ]


def _not_refused(seen: Seen, *, is_harmed: bool) -> list[str]:
    """A refused edit is told, and what served before serves on."""
    status = status_of(seen.workspace)
    assert seen.workspace
    generation = seen.workspace["metadata"]["generation"]
    accepted = status.condition(ConditionType.ACCEPTED)
    found = []
    if accepted is None or accepted.status != "False" or accepted.observed_generation != generation:
        found.append(f"its refusal is not told: {accepted}")
    if status.served_generation is None:
        return found + (
            [f"it serves nothing, and holds {seen.claims} claims"] if seen.claims else []
        )
    return found + ([] if is_harmed and _is_told(status) else _not_served(seen))


def _is_told(status: WorkspaceStatus) -> bool:
    """Whether a server that does not answer is told with a reason."""
    answers = status.condition(ConditionType.INFERENCE_READY)
    return answers is not None and answers.status == "False" and bool(answers.message)


def _not_ready(seen: Seen) -> list[str]:
    status = status_of(seen.workspace)
    assert seen.workspace
    generation = seen.workspace["metadata"]["generation"]
    found = []
    if status.state != State.READY:
        found.append(f"it is {status.state} ({status.reason}), and is to be Ready")
    if status.observed_generation != generation:
        found.append(f"generation {generation} was not looked at")
    found += [
        f"{c.type} is {c.status}: {c.reason}" for c in status.conditions if c.status == "False"
    ]
    return found + _not_served(seen)


def _not_served(seen: Seen) -> list[str]:
    missing = [*_OWNED_WHILE_SERVED]
    for kind in seen.objects:
        if kind in missing:
            missing.remove(kind)
    found = [f"no {kind}" for kind in missing]
    status = status_of(seen.workspace)
    if not status.is_true(ConditionType.INFERENCE_READY):
        found.append("it does not serve")
    if seen.claims != 1:
        found.append(f"it holds {seen.claims} claims, and needs one")
    return found
