"""The seam between what a run does and where its pods run.

A platform keeps objects (Workspaces with their status, ConfigMaps, Secrets), knows where a pod's
files are, and runs pods. `local` runs pod programs as processes of this machine, `kubernetes` as
the containers of a Job and of a StatefulSet. Every call ensures rather than does: repeating one is
safe, whatever happened in between.
"""

import base64
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tasks.contract.artifacts import Endpoint, Node
from tasks.contract.podlog import Event
from tasks.contract.status import WorkspaceStatus
from tasks.contract.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Container:
    """One pod program to run: `python -m program CONFIG.json`.

    config: a frozen dataclass owned by the program.
    """

    name: str
    program: str
    config: Any


@dataclass(frozen=True, kw_only=True)
class Pod:
    """Containers that share their files and run one after the other.

    name: TUNING ends when its last container has; in INFERENCE the last one is a server and stays.
    files: name to text; they lie in the pod's config_dir.
    secrets: docker-config Secrets that the containers read.
    volumes: a folder in the pod to the volumeSource that is mounted there.
    hub_secret: the Secret with HF_TOKEN, for weights that the hub guards.
    gpus: that training and serving ask for; 0 = they run on the CPU.
    template: a pod template of the user's own, instead of containers.
    """

    name: str
    containers: tuple[Container, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    volumes: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    hub_secret: str | None = None
    gpus: int = 0
    template: Mapping[str, Any] | None = None

    def container(self, name: str) -> Container:
        """The container of that name."""
        return next(container for container in self.containers if container.name == name)

    def containers_between(self, first: str, last: str) -> tuple[Container, ...]:
        """The containers that run after the one and before the other."""
        names = [container.name for container in self.containers]
        return self.containers[names.index(first) + 1 : names.index(last)]


@dataclass(frozen=True, kw_only=True)
class PodPaths:
    """Where a pod of a Workspace finds its files (in a pod: /mnt/data, /mnt/results, ...).

    source_dir: dataset files that come from an image or a volume, before they are prepared.
    """

    config_dir: Path
    source_dir: Path
    data_dir: Path
    results_dir: Path
    adapter_dir: Path
    weights_dir: Path
    images_dir: Path


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens, and the URL at which others reach it."""

    host: str
    port: int
    url: str


@dataclass(frozen=True, kw_only=True)
class World:
    """What the checks may look at besides the Workspace.

    node: None = not known before there is one.
    home: where this machine keeps models and images; None = in pods, on their node's disk.
    is_cluster: whether volumes, images as dataset and pod templates can be used, and files cannot.
    docker_config: with which the image is pushed; None = there is none.
    taken: (kind, name) of objects that are to be made, where one of somebody else has the name.
    """

    config_maps: Mapping[str, Mapping[str, str]]
    has_secret: Callable[[str], bool]
    docker_config: bytes | None = field(default=None, repr=False)
    node: Node | None = None
    home: Path | None = None
    is_cluster: bool = False
    push: bool = False
    taken: tuple[tuple[str, str], ...] = ()
    port: int | None = None
    port_is_free: Callable[[int], bool] = lambda _port: True


class Platform(Protocol):
    """Where pods run."""

    @property
    def is_cluster(self) -> bool:
        """Whether pods outlive the process that follows them, and only `stop` ends them.

        On one machine, cancelling what waits for a pod stops the pod.
        """

    @property
    def progress_every_s(self) -> float:
        """How often progress is worth a write of the status."""

    def paths(self, workspace: Workspace, *, model: str, revision: str) -> PodPaths:
        """Where the Workspace's pods find their files."""

    async def apply(self, workspace: Workspace) -> Workspace:
        """Have the platform keep the object; it with its uid and generation. Twice is once."""

    async def is_current(self, workspace: Workspace) -> bool:
        """Whether the object is there, in this generation and no newer one."""

    async def read_status(self, workspace: Workspace) -> WorkspaceStatus:
        """The status as last written; an empty one for a new Workspace."""

    async def write_status(self, workspace: Workspace, status: WorkspaceStatus) -> None:
        """Replace the status as a whole."""

    async def record_event(
        self, workspace: Workspace, *, reason: str, message: str, is_failure: bool
    ) -> None:
        """Tell what happened where the platform keeps events of objects; a failure is a warning."""

    async def look_around(self, workspace: Workspace, *, push: bool, port: int | None) -> World:
        """What the checks need to know of this platform. Nothing is changed."""

    async def read_config_map(self, workspace: Workspace, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap in the Workspace's namespace; None when there is none."""

    async def docker_config(self, workspace: Workspace, secret: str) -> Path | None:
        """Where the pods of the Workspace find a docker-config Secret; None when there is none."""

    def hold_run(self, workspace: Workspace) -> AbstractAsyncContextManager[None]:
        """Be the only run of a Workspace as long as the context lasts."""

    def follow(
        self, workspace: Workspace, pod: Pod, container: Container
    ) -> AsyncGenerator[Event | str]:
        """Ensure that a container runs and yield what it says until it ends: events and log lines.

        The last event is `result`; while the pod waits for its start, it is `waiting`.
        Raises: the typed error of the program's verdict; ContainerKilled when there is none.
        """

    async def server_address(self, workspace: Workspace, *, port: int | None) -> Address:
        """Where the Workspace's server is to listen; `port` is what was asked for."""

    def ensure_server(
        self, workspace: Workspace, pod: Pod, *, endpoint: Endpoint
    ) -> AsyncGenerator[Event | str]:
        """Ensure that a pod's server runs and answers; yields what it says until it is ready."""

    async def server_nodes(self, workspace: Workspace, generation: int) -> Collection[str] | None:
        """Names of the nodes on which a generation's server runs; None when it has no server."""

    async def end(self, workspace: Workspace, pod: Pod) -> None:
        """Have a pod end that is not followed any more and does not end by itself."""

    async def stop(self, workspace: Workspace) -> list[str]:
        """Stop everything that runs for the Workspace; the names of what was stopped."""

    async def delete(self, workspace: Workspace) -> None:
        """Stop everything and forget the Workspace and its files (models and images are kept)."""

    async def let_go(self, workspace: Workspace) -> None:
        """Let a Workspace that is being deleted go: nothing of it is left."""


def docker_config_of(secret: Mapping[str, Any]) -> bytes:
    """The docker config in a Secret's manifest; an empty one when it has none."""
    key = ".dockerconfigjson"
    if key in (secret.get("stringData") or {}):
        return str(secret["stringData"][key]).encode()
    return base64.b64decode((secret.get("data") or {}).get(key, "e30="))
