"""Which logs `kaitoflow logs --step` chooses; the same on this machine and on a cluster."""

from collections.abc import Collection
from dataclasses import dataclass

from tasks.contract.errors import LogNotFound, StepUnknown
from tasks.contract.steps import FETCH_WEIGHTS, INFERENCE, PODS, StepName, pods_of, step_of
from tasks.contract.workspace import Workspace


@dataclass(frozen=True)
class LogChoice:
    """The logs that are asked for.

    word: a step as it is shown, or a container; None = all.
    """

    workspace: Workspace
    word: str | None

    def takes(self, container: str, *, pod: str | None = None) -> bool:
        """Whether a container's log is among them; pod None = it may be of any."""
        if self.word in (None, container):
            return True
        pods = (pod,) if pod else pods_of(self.workspace)
        steps = [step_of(container, self.workspace, pod=each) for each in pods]
        if container == FETCH_WEIGHTS:  # the only one that is another step's in another pod
            return self.word in steps
        return self.word == next((step for step in steps if step), None)

    @property
    def takes_server(self) -> bool:
        """Whether the log that goes on after the run is among them."""
        if self.word in (None, StepName.DEPLOY):
            return True
        return step_of(str(self.word), self.workspace, pod=INFERENCE) is StepName.DEPLOY

    def expect_possible(self, there: Collection[str]) -> None:
        """Nothing, when such a log is there or may come.

        Args: there: the containers that have a log now.
        Raises: StepUnknown: no step or container has the name. LogNotFound: the step has none.
        """
        word = self.word
        if word is None or word in there:
            return
        if word in {step.value for step in StepName if not step.has_log}:
            raise LogNotFound(
                f"the log of step {word!r} was asked for",
                "it runs in no container, so it has no log of its own",
                f"`kaitoflow describe {self.workspace.metadata.name}` tells what came of it",
            )
        if word in set(StepName) or self._may_be_container(word):
            return
        steps = ", ".join(step for step in StepName if step.has_log)
        raise StepUnknown(
            f"the log of step {word!r} was asked for",
            f"no step or container has this name; there are logs of: {_listed(there)}",
            f"choose one of {steps} with --step, or a container",
        )

    def missing(self, there: Collection[str]) -> LogNotFound:
        """The error that names the containers of which there are logs."""
        return LogNotFound(
            f"the log of step {self.word!r} was asked for",
            f"there are logs of: {_listed(there)}",
            "choose one of those with --step",
        )

    def _may_be_container(self, word: str) -> bool:
        return any(step_of(word, self.workspace, pod=pod) for pod in PODS)


def _listed(there: Collection[str]) -> str:
    return ", ".join(dict.fromkeys(there)) or "none yet"
