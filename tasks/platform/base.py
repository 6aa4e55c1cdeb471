"""The seam between what a run does and where its pods run.

A platform keeps objects (Workspaces with their status, ConfigMaps, Secrets), knows where a pod's
files are, and runs containers. `local` runs pod programs as processes on this machine. Every call
ensures rather than does: repeating one is safe, whatever happened in between.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tasks.artifacts import Endpoint, Node
from tasks.podlog import Event
from tasks.status import WorkspaceStatus
from tasks.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Container:
    """One pod program to run: `python -m program CONFIG.json`.

    config: a frozen dataclass owned by the program.
    """

    name: str
    program: str
    config: Any


@dataclass(frozen=True, kw_only=True)
class PodPaths:
    """Where a pod of a Workspace finds its files (in a pod: /mnt/data, /mnt/results, ...)."""

    config_dir: Path
    data_dir: Path
    results_dir: Path
    adapter_dir: Path
    weights_dir: Path
    images_dir: Path


class Platform(Protocol):
    """Where pods run."""

    def paths(self, workspace: Workspace, *, model: str, revision: str) -> PodPaths:
        """Where the Workspace's pods find their files."""

    async def apply(self, workspace: Workspace) -> Workspace:
        """Have the platform keep the object; it with its uid and generation. Twice is once."""

    async def read_status(self, workspace: Workspace) -> WorkspaceStatus:
        """The status as last written; an empty one for a new Workspace."""

    async def write_status(self, workspace: Workspace, status: WorkspaceStatus) -> None:
        """Replace the status as a whole."""

    async def read_config_map(self, workspace: Workspace, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap in the Workspace's namespace; None when there is none."""

    async def docker_config(self, workspace: Workspace, secret: str) -> Path | None:
        """Where the pods of the Workspace find a docker-config Secret; None when there is none."""

    async def node(self) -> Node:
        """The node that the Workspace's pods run on."""

    def hold_run(self, workspace: Workspace) -> AbstractAsyncContextManager[None]:
        """Be the only run of a Workspace as long as the context lasts."""

    def follow(self, workspace: Workspace, container: Container) -> AsyncGenerator[Event | str]:
        """Ensure that a container runs and yield what it says until it ends: events and log lines.

        The last event is `result`. Cancelling the iteration stops the container.
        Raises: the typed error of the program's verdict; ContainerKilled when there is none.
        """

    def ensure_server(
        self, workspace: Workspace, container: Container, *, endpoint: Endpoint
    ) -> AsyncGenerator[Event | str]:
        """Ensure that a server runs and answers; yields what it says until it is ready."""

    async def stop(self, workspace: Workspace) -> list[str]:
        """Stop everything that runs for the Workspace; the names of what was stopped."""

    async def delete(self, workspace: Workspace) -> None:
        """Stop everything and forget the Workspace and its files (models and images are kept)."""
