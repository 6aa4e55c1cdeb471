"""Where an installation's nodes come from, and how one of them is lost."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

from tests.cluster.simulated_node import SimulatedNode
from tests.flows.watcher.azure import Azure, azure_before
from tests.flows.watcher.clouds import claims_of, joining, tell_initialized
from tests.flows.watcher.installation import Installation

INSTANCE_TYPE = "Standard_NC4as_T4_v3"
_LOOK_AGAIN_S = 0.5
_OWN_NODES = 2  # for each Workspace: one, and one that is there when it is lost
Object = dict[str, Any]


class Machines(Protocol):
    """The nodes of an installation, which play their kubelets."""

    def lose(self, node: str) -> None:
        """Let a node go as a machine does that breaks; what was asked of the cloud stays."""


@contextmanager
def machines_for(
    provisioner: str, installed: Installation, own: Sequence[str]
) -> Iterator[Machines]:
    """The machines for as long as the context lasts; told to the programs that start after this.

    Their containers are held and counted as those of the installation's node are.
    Args: own: labels (apps) of the Workspaces that share their nodes with no other.
    """
    with _MACHINES[provisioner](installed, own) as made:
        yield made


class _OfKarpenter:
    """Makes a node of each claim, and takes it away with the claim."""

    def __init__(self, installed: Installation) -> None:
        self._installed = installed
        self._nodes: dict[str, AbstractContextManager[SimulatedNode]] = {}
        self._of_claims: dict[str, tuple[str, str]] = {}
        self._is_over = threading.Event()
        self._made = 0

    def work(self) -> None:
        """Fulfil claims until `end`; then no node is left."""
        while not self._is_over.wait(_LOOK_AGAIN_S):
            claims = {each["metadata"]["name"]: each for each in claims_of(self._installed)}
            for claim, (uid, node) in tuple(self._of_claims.items()):
                if claim not in claims or claims[claim]["metadata"]["uid"] != uid:
                    self.lose(node)  # also where a claim of that name was made anew
                    del self._of_claims[claim]
            for claim, found in claims.items():
                if not (found.get("status") or {}).get("nodeName"):
                    self._fulfil(claim, found)
        for node in tuple(self._nodes):
            self.lose(node)

    def end(self) -> None:
        self._is_over.set()

    def lose(self, node: str) -> None:
        if running := self._nodes.pop(node, None):
            running.__exit__(None, None, None)

    def _fulfil(self, name: str, claim: Object) -> None:
        self._made += 1  # a machine in place of another has another name
        node, labels = f"node-{name}-{self._made}", claim["metadata"]["labels"]
        self._nodes[node] = running = _joining(self._installed, node, labels)
        running.__enter__()
        self._of_claims[name] = claim["metadata"]["uid"], node
        with suppress(RuntimeError):  # deleted meanwhile: the next look ends its machine
            tell_initialized(self._installed, claim, node)


class _OfAzure:
    """Machines of the pools that the ARM server made."""

    def __init__(self, azure: Azure) -> None:
        self._azure = azure

    def lose(self, node: str) -> None:
        self._azure.lose(node.split("-")[1])  # aks-POOL-vmss000000


class _Own:
    """Nodes that were there before; nobody puts another in the place of one."""

    def __init__(self, installed: Installation, labels: Sequence[str]) -> None:
        self._nodes = {
            name: _joining(installed, name, {"apps": label})
            for label in labels
            for name in (f"own-{label}-{number}" for number in range(_OWN_NODES))
        }
        for node in self._nodes.values():
            node.__enter__()

    def lose(self, node: str) -> None:
        self._nodes.pop(node).__exit__(None, None, None)

    def end(self) -> None:
        for node in tuple(self._nodes):
            self.lose(node)


@contextmanager
def _joining(installed: Installation, node: str, labels: dict[str, str]) -> Iterator[SimulatedNode]:
    with joining(installed, node, labels, instance_type=INSTANCE_TYPE) as made:
        made.held, made.pods = installed.node.held, installed.node.pods
        yield made


@contextmanager
def _of_karpenter(installed: Installation, own: Sequence[str]) -> Iterator[Machines]:
    made = _OfKarpenter(installed)
    work = threading.Thread(target=made.work, name="karpenter")
    work.start()
    try:
        yield made
    finally:
        made.end()
        work.join()


@contextmanager
def _of_azure(installed: Installation, own: Sequence[str]) -> Iterator[Machines]:
    with azure_before(installed) as azure:
        azure.held, azure.pods = installed.node.held, installed.node.pods
        installed.settings |= azure.settings | {"KAITOFLOW_MAX_NODES": str(2 * len(own))}
        yield _OfAzure(azure)


@contextmanager
def _own(installed: Installation, own: Sequence[str]) -> Iterator[Machines]:
    made = _Own(installed, own)
    try:
        yield made
    finally:
        made.end()


_MACHINES = {"karpenter": _of_karpenter, "aks": _of_azure, "byo": _own}
