"""The seam between what a run does and where its pods run.

A platform keeps objects (Workspaces with their status, ConfigMaps, Secrets), knows where a pod's
files are, and runs pods. `local` runs pod programs as processes of this machine, `kubernetes` as
the containers of a Job and of a StatefulSet. Every call ensures rather than does: repeating one is
safe, whatever happened in between.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tasks.contract.artifacts import Endpoint, Node, Tuned
from tasks.contract.podlog import Event
from tasks.contract.resources import Resources
from tasks.contract.status import AdapterRun, WorkspaceStatus
from tasks.contract.workspace import Workspace
from tasks.platform.diagnosis import Diagnosis
from tasks.platform.named_objects import Faults
from tasks.platform.namespace_rules import NamespaceRules
from tasks.platform.outputs import Rivals

# That a pod may have to end well: whoever stops one waits for it.
LONGEST_GRACE_S = 300.0


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

    name: TUNING and CANDIDATE end when their last container has; in INFERENCE the last one is a
        server and stays.
    files: name to text; they lie in the pod's config_dir.
    secrets: docker-config Secrets that the containers read.
    volumes: a folder in the pod to the volumeSource that is mounted there.
    hub_secret: the Secret with HF_TOKEN, for weights that the hub guards.
    nodes: that it is on at once, a pod each, of which the first is the one that is followed.
    gpus: that training and serving ask for; 0 = they run on the CPU.
    resources: of each container; None = the platform gives what it has.
    candidate: number of the adapter that it makes or measures beside the one that serves; None = it
        is of the Workspace as it is asked for, and its status speaks of what it does.
    grace_s: that it has to end well once it is asked to.
    startup_s: that its server may take until it answers.
    template: a pod template of the user's own, instead of containers.
    has_vllm: whether its programs need the image that has vLLM.
    """

    name: str
    containers: tuple[Container, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    volumes: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    hub_secret: str | None = None
    nodes: int = 1
    gpus: int = 0
    resources: Resources | None = None
    candidate: int | None = None
    grace_s: float = 30.0
    startup_s: float = 1800.0
    template: Mapping[str, Any] | None = None
    has_vllm: bool = False

    def container(self, name: str) -> Container:
        """The container of that name."""
        return next(container for container in self.containers if container.name == name)

    def has(self, name: str) -> bool:
        """Whether there is a container of that name."""
        return any(container.name == name for container in self.containers)

    def containers_between(self, first: str, last: str) -> tuple[Container, ...]:
        """The containers that run after the one and before the other."""
        names = [container.name for container in self.containers]
        return self.containers[names.index(first) + 1 : names.index(last)]


@dataclass(frozen=True, kw_only=True)
class PodPaths:
    """Where a pod of a Workspace finds its files (in a pod: /mnt/data, /mnt/results, ...).

    source_dir: dataset files that come from an image or a volume, before they are prepared.
    admin_key_file: who bears the key in it may load adapters into the server.
    user_keys_file: who bears a key in it may ask the server, where it asks for keys.
    """

    config_dir: Path
    source_dir: Path
    data_dir: Path
    results_dir: Path
    adapter_dir: Path
    weights_dir: Path
    images_dir: Path
    admin_key_file: Path
    user_keys_file: Path


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
    faults: of the Secrets and volume claims that are named, and are there.
    tuned: what was tuned for the Workspace last, whatever it asks for by now.
    tuned_before: what served before that, and can again; the last first.
    served_generation: that serves now; None = none does.
    has_admin_key: whether its server can be asked for another adapter while it serves; looked at
        where the Workspace wants to.
    rivals: other Workspaces that write to the same image or volume claim.
    allow_commands: whether a Workspace may name what runs as a process of this machine.
    """

    config_maps: Mapping[str, Mapping[str, str]]
    has_secret: Callable[[str], bool]
    docker_config: bytes | None = field(default=None, repr=False)
    node: Node | None = None
    home: Path | None = None
    is_cluster: bool = False
    push: bool = False
    taken: tuple[tuple[str, str], ...] = ()
    faults: Faults = field(default_factory=dict)
    tuned: Tuned | None = None
    tuned_before: Sequence[Tuned] = ()
    served_generation: int | None = None
    has_admin_key: bool = True
    rivals: Rivals = field(default_factory=Rivals)
    allow_commands: bool = False
    port: int | None = None
    port_is_free: Callable[[int], bool] = lambda _port: True


# Told of each request to the API server: its method, the status (0 = no answer) and the seconds.
OnAnswer = Callable[[str, int, float], None]


class Platform(Protocol):
    """Where pods run.

    on_answer: told of each request that is made from now on; None = nobody wants to know.
    """

    on_answer: OnAnswer | None

    @property
    def is_cluster(self) -> bool:
        """Whether pods outlive the process that follows them, and only `stop` ends them.

        On one machine, cancelling what waits for a pod stops the pod.
        """

    @property
    def progress_every_s(self) -> float:
        """How often progress is worth a write of the status."""

    def paths(
        self, workspace: Workspace, *, model: str, revision: str, candidate: int | None = None
    ) -> PodPaths:
        """Where the Workspace's pods find their files, or those of a candidate's pod."""

    async def apply(self, workspace: Workspace) -> Workspace:
        """Have the platform keep the object; it with its uid and generation. Twice is once.

        One that has a uid is kept already: it is read, since its run was told no secrets of it.
        """

    async def find(self, namespace: str, name: str) -> Workspace | None:
        """The object of a name, as it is kept; None when there is none."""

    async def as_it_is(self, workspace: Workspace) -> Workspace:
        """The object as it is now: annotations may be edited while a run of it is at work."""

    async def is_current(self, workspace: Workspace) -> bool:
        """Whether the object is there, in this generation and no newer one."""

    async def is_being_deleted(self, workspace: Workspace) -> bool:
        """Whether a person has deleted the object, which is still there."""

    async def read_status(self, workspace: Workspace) -> WorkspaceStatus:
        """The status as last written; an empty one for a new Workspace."""

    async def write_status(self, workspace: Workspace, status: WorkspaceStatus) -> None:
        """Replace the status as a whole."""

    async def record_event(
        self, workspace: Workspace, *, reason: str, message: str, is_warning: bool
    ) -> None:
        """Tell what happened where the platform keeps events of objects."""

    async def look_around(self, workspace: Workspace, *, push: bool, port: int | None) -> World:
        """What the checks need to know of this platform. Nothing is changed."""

    async def namespace_rules(self, workspace: Workspace) -> NamespaceRules:
        """What the Workspace's namespace lets its pods have; nothing is ruled where nobody does."""

    async def rehearse(self, workspace: Workspace, pod: Pod) -> list[Diagnosis]:
        """Why what a pod is made into would be refused, now or for good; nothing is made."""

    async def read_config_map(self, workspace: Workspace, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap in the Workspace's namespace; None when there is none."""

    async def docker_config(self, workspace: Workspace, secret: str) -> Path | None:
        """Where the pods of the Workspace find a docker-config Secret; None when there is none."""

    async def pull_logins(self, workspace: Workspace) -> Sequence[bytes]:
        """The docker configs that the dataset's image is pulled with, as they are now.

        For who asks its registry from outside a pod. One that cannot be used is left out.
        """

    def hold_run(
        self, workspace: Workspace, *, adapter_run: AdapterRun | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Be the only run of a Workspace as long as the context lasts.

        Args: adapter_run: of a run that makes or moves an adapter once the Workspace's own has
        ended; None = it is that one.
        Raises: RunInProgress: another run holds it.
        """

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

    async def judge_key_file(self, workspace: Workspace) -> Path | None:
        """Where the measurement finds the judge's key, if there is one; None = there is none."""

    async def admin_key(self, workspace: Workspace) -> str:
        """The key that opens the admin endpoints of the server that runs; empty = it has none."""

    async def renew_server(self, workspace: Workspace, pod: Pod) -> None:
        """Have the server be this one whenever its pod is made anew; the one that runs stays.

        It answers as the pod would already, since it was asked to while it serves.
        """

    async def end_server(self, workspace: Workspace) -> None:
        """Have no server of the Workspace, nor what leads to one, of whichever generation."""

    async def pause_server(self, workspace: Workspace) -> None:
        """Have no pod of the server, and keep all else of it; return when they are gone."""

    async def resume_server(self, workspace: Workspace) -> None:
        """Let a server that pauses have its pod again; nothing happens where there is none."""

    async def restore_server(self, workspace: Workspace) -> Workspace | None:
        """Have what is gone or changed of what serves as it was, whatever is asked for by now.

        The Workspace as it is served; None = that is not kept, and nothing was done.
        """

    async def served(self, workspace: Workspace) -> Workspace | None:
        """The Workspace as its server was made from it; None = none, or it is not kept."""

    async def served_images(self, workspace: Workspace) -> Collection[str]:
        """Digests of the images that the server's adapters are of, also where no status tells."""

    def await_served(self, workspace: Workspace) -> AsyncGenerator[Event | str]:
        """Wait until what serves answers, and go on restoring it; yields what it waits for.

        Raises: ServerNotReady, or what keeps its pod from ever being ready.
        """

    async def server_gpus(self, workspace: Workspace) -> int:
        """How many GPUs the pods of the server ask for, each; 0 where there is none."""

    async def has_server(self, workspace: Workspace, pod: Pod) -> bool:
        """Whether the very server that the pod would be answers already, of whichever generation.

        A platform whose containers end at once when their work is done need not know.
        """

    async def server_nodes(self, workspace: Workspace, generation: int) -> Collection[str] | None:
        """Names of the nodes on which a generation's server runs; None when it has no server."""

    async def leave_nodes(
        self, workspace: Workspace, *, but: Collection[str] = ()
    ) -> Mapping[str, str]:
        """Have what is trained on nodes that are taken away soon end, with a checkpoint.

        By each node the sign by which it says so. What ends is begun again elsewhere.
        Args: but: nodes that were left before.
        """

    async def end(self, workspace: Workspace, pod: Pod) -> None:
        """Have a pod end that is not followed any more and does not end by itself."""

    async def end_tuning(self, workspace: Workspace, *, candidate: int | None = None) -> None:
        """Have nothing of this generation, or of a candidate for it, trained or pushed any more."""

    async def stop(self, workspace: Workspace) -> list[str]:
        """Stop everything that runs for the Workspace; the names of what was stopped."""

    async def delete(self, workspace: Workspace) -> None:
        """Stop everything and forget the Workspace and its files (models and images are kept)."""

    async def let_go(self, workspace: Workspace) -> None:
        """Let a Workspace that is being deleted go: nothing of it is left."""
