"""Claims that somebody else fulfils: Karpenter, or KAITO's gpu-provisioner."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.nodes.provisioner import Machine


class KarpenterFulfiller:
    """Does nothing: the cluster's own controller does; see `tasks.nodes.provisioner.Fulfiller`."""

    finalizers: tuple[str, ...] = ()

    async def advance(self, claim: Mapping[str, Any]) -> None:
        """Somebody else's work."""

    async def remove(self, claim: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """A claim goes when its controller has taken the machine back."""
        return True

    async def machines(self) -> Sequence[Machine]:
        """Return no machine: we know of none."""
        return ()

    async def discard(self, machine: Machine) -> None:
        """Discard nothing: no machine is ever named."""
