"""The command that is to score candidates, as far as it can be looked at beforehand. Pure."""

from tasks.contract.artifacts import Check
from tasks.contract.errors import (
    AddressForbidden,
    ImageReferenceInvalid,
    KaitoflowError,
    RegistryDenied,
)
from tasks.contract.gate_command import GATE_COMMAND_ANNOTATION, GateCommand
from tasks.plan.check import not_seen, not_told
from tasks.plan.findings import Findings

_NAME = "gate"


def gate(command: GateCommand, findings: Findings) -> Check | str:
    """What scores candidates; a training is not to be spent before its image is missed.

    Raises: ImageReferenceInvalid: the registry has none of that name.
    """
    found = findings.has_gate_image
    if isinstance(found, AddressForbidden | RegistryDenied):
        # A kubelet reaches registries inside, and has logins of its own.
        return not_seen(
            _NAME,
            found,
            before=str(command),
            how="could not be seen",
            fix="see that the nodes may pull it, or that tuning.output.imagePushSecret may",
        )
    if isinstance(found, KaitoflowError):
        return not_told(_NAME, found, before=str(command))
    if found is False:
        raise ImageReferenceInvalid(
            f"annotation {GATE_COMMAND_ANNOTATION} asks for {command}",
            "its registry has no such image",
            "push it, or correct its name",
        )
    return str(command)
