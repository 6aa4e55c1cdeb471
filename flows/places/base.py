"""The seam between the commands and where Workspaces are kept.

A command speaks to `Objects` and to nothing else, so that it reads the same for this machine and
for a cluster.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.contract.artifacts import Check, Plan
from tasks.contract.errors import KaitoflowError, ServerNotReady
from tasks.contract.programs.serving import MergeResult
from tasks.contract.recorded_event import RecordedEvent
from tasks.contract.workspace import Adapter, Manifests, Workspace
from tasks.platform.base import World
from tasks.platform.manifests.naming import admin_key_secret
from tasks.platform.named_objects import admin_key_in, docker_config_of, secret_faults
from tasks.platform.store import StoredWorkspace
from tasks.settings import settings

if TYPE_CHECKING:
    # It knows the API server's client, whose import takes a second.
    from tasks.nodes.garbage.leaks import Leak

Manifest = dict[str, Any]
Tell = Callable[[str], None]


class WorkspaceNotFound(KaitoflowError):
    """No Workspace of that name was applied."""


class WrongUsage(KaitoflowError):
    """An option that means nothing where the command is to act."""

    exit_code = 2


@dataclass(frozen=True)
class Row:
    """One line of `get`: heading to value; next_retuning: empty = there is none by itself."""

    namespace: str
    name: str
    values: Mapping[str, str]
    next_retuning: str = ""


class Objects(Protocol):
    """The Workspaces of one place."""

    @property
    def namespace(self) -> str:
        """Where a name is looked for when no namespace is given."""

    def rows(self, namespace: str | None, *, wide: bool) -> list[Row]:
        """A line for each Workspace, by namespace and name; namespace None = of all."""

    def manifests(self, namespace: str | None) -> list[Manifest]:
        """The Workspaces as kubectl would print them."""

    def damage(self, namespace: str | None) -> list[str]:
        """What of the Workspaces listed cannot be read, each with what to do."""

    def find(self, namespace: str, name: str) -> StoredWorkspace | None:
        """A Workspace by name; None when there is none."""

    def is_serving(self, workspace: Workspace) -> bool:
        """Whether the Workspace's server runs now."""

    def events(self, workspace: Workspace) -> list[RecordedEvent]:
        """What its platform keeps of what happened to the Workspace, oldest first."""

    def plan(self, manifests: Manifests, *, push: bool, port: int | None) -> Plan:
        """What a run would need, and whether it may. Nothing is created."""

    def run(self, manifests: Manifests, *, push: bool, port: int | None) -> int:
        """Run a file's Workspace to the end, showing its progress; the exit code."""

    def log_lines(
        self, workspace: Workspace, *, step: str | None, follow: bool, previous: bool
    ) -> Iterator[tuple[str, str]]:
        """What was said, as (container, line), in the order in which the steps run.

        Args: step: as it is shown, or a container; None = all. follow: go on while the run or its
        server lasts. previous: of the start before.
        Raises: StepUnknown: nothing has that name. LogNotFound: it has no log; names those there
        are.
        """

    def ask(self, stored: StoredWorkspace, body: Mapping[str, Any]) -> Iterator[str]:
        """The lines that the server answers to POST /v1/chat/completions, as they come.

        Raises: ServerNotReady: it does not answer, or says no.
        """

    def administer(
        self, stored: StoredWorkspace, path: str, body: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        """What the server answers to who has its admin key: to a POST of the body, or to a GET.

        Raises: ServerNotReady: it does not answer, has no such key, or says no.
        """

    def merge(self, stored: StoredWorkspace, adapter: Adapter | None, folder: Path) -> MergeResult:
        """Write the base model with an adapter in its weights into a folder that is not there yet.

        Args: adapter: None = what is served of the Workspace's own.
        Raises: WrongUsage: not in this place. What the programs end with.
        """

    def stop(self, workspace: Workspace, tell: Tell) -> list[str]:
        """Stop the run and the server; the names of what was stopped.

        Args: tell: hears what is waited for.
        """

    def delete(self, workspace: Workspace, tell: Tell) -> None:
        """Stop everything and forget the Workspace; returns when it is gone."""

    def examine(self) -> Sequence[Check]:
        """What works here and what does not, looked at from outside; see `flows.doctor`."""

    def next_retuning(self, workspace: Workspace) -> str:
        """When it is retuned next, in one line, and what may keep it from that; empty = never."""

    def retune(self, workspace: Workspace, *, push: bool) -> str:
        """Tune an adapter from data that has changed; what it came to, in one line."""

    def promote(
        self, workspace: Workspace, number: int | None, *, refuse: bool = False, by: str, note: str
    ) -> None:
        """Have one of the Workspace's adapters serve; None = the one that waits for a word.

        Args: refuse: keep it out instead.
        Raises: AdapterNotFound.
        """

    def leaks(self) -> Sequence["Leak"]:
        """Machines that were made for Workspaces, and that nobody needs."""

    def collect_leaks(self) -> Sequence["Leak"]:
        """Remove those that may be removed; which that were."""


def find_workspace(objects: Objects, name: str, namespace: str | None) -> StoredWorkspace:
    """The Workspace of that name.

    Raises: WorkspaceNotFound: there is none; offers near names.
    """
    wanted = namespace or objects.namespace
    found = objects.find(wanted, name)
    if found:
        return found
    raise not_found(name, wanted, [row.name for row in objects.rows(wanted, wide=False)])


def not_found(name: str, namespace: str, known: list[str]) -> WorkspaceNotFound:
    """The error that offers names near the one that was asked for."""
    near = difflib.get_close_matches(name, known, n=3)
    offer = f"did you mean {', '.join(near)}?" if near else "`kaitoflow get -A` lists all"
    return WorkspaceNotFound(
        f"workspace {name!r} was asked for",
        f"namespace {namespace} has {len(known)} and this is none of them",
        f"{offer}",
    )


def server_not_running(workspace: Workspace) -> ServerNotReady:
    """The error of who asks a server that is not there."""
    return ServerNotReady(
        f"workspace {workspace} was to be asked",
        "its server is not running",
        "start it with `kaitoflow run WORKSPACE.yaml`",
    )


def with_file_objects(world: World, manifests: Manifests) -> World:
    """The world as it will be once the file's ConfigMaps and Secrets are applied."""
    secrets, pushing = manifests.secrets, ("Secret", manifests.workspace.push_secret)
    of_file = secret_faults(manifests.workspace, secrets)
    docker_config = world.docker_config
    admin_key_name = admin_key_secret(manifests.workspace)
    if pushing[1] in secrets:
        docker_config = None if pushing in of_file else docker_config_of(secrets[pushing[1]])
    faults = {about: each for about, each in world.faults.items() if about[1] not in secrets}
    # One machine takes the hub's token from its environment, and a login for a push alone.
    faults |= {
        about: each
        for about, each in of_file.items()
        if world.is_cluster or (world.push and about == pushing)
    }
    return dataclasses.replace(
        world,
        docker_config=docker_config,
        faults=faults,
        config_maps={**world.config_maps, **manifests.config_maps},
        has_secret=lambda name: name in manifests.secrets or world.has_secret(name),
        has_admin_key=world.has_admin_key or bool(admin_key_in(secrets.get(admin_key_name))),
    )


def age(since: datetime) -> str:
    """Time passed, as kubectl prints it: 45s, 12m, 3h, 2d."""
    seconds = int((datetime.now(UTC) - since).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def user_key_headers() -> dict[str, str]:
    """What a server is told that asks for a key; Kubernetes' proxy keeps Authorization."""
    key = settings().server_key.get_secret_value()
    return {"X-API-Key": key} if key else {}
