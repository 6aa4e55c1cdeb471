"""The platform of one machine: objects are files, containers are processes of this machine."""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import psutil

from tasks.contract.artifacts import Endpoint, Node
from tasks.contract.errors import RunInProgress, ServerNotReady
from tasks.contract.judge import judge_key_secret
from tasks.contract.podlog import Event
from tasks.contract.recorded_event import RecordedEvent
from tasks.contract.status import AdapterRun, WorkspaceStatus
from tasks.contract.units import utc_text
from tasks.contract.workspace import Manifests, ObjectMeta, Workspace
from tasks.estimate.processor import cpu_has_bf16
from tasks.platform.base import Address, Container, OnAnswer, Pod, PodPaths, World
from tasks.platform.diagnosis import Diagnosis
from tasks.platform.named_objects import docker_config_of, judge_key_in
from tasks.platform.namespace_rules import NamespaceRules
from tasks.platform.outputs import Rivals, rivals, writer
from tasks.platform.ownership import expect_asked
from tasks.platform.processes import (
    ContainerProcess,
    ProcessRecord,
    follow_to_result,
    raise_for_verdict,
)
from tasks.platform.store import Store, write_atomically
from tasks.settings import Settings

SERVER = "serve"
HOST = "127.0.0.1"
_PROBE_S = 0.5
_FIRST_PORT = 5000
_PORTS_TRIED = 100


def weights_dir(home: Path, *, model: str, revision: str) -> Path:
    """Where this machine keeps a base model's weights, for all Workspaces."""
    return home / "models" / f"{model.replace('/', '--')}@{revision}"


def own_docker_config() -> Path | None:
    """Where docker keeps the logins of this user; None = there are none."""
    own = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker")) / "config.json"
    return own.absolute() if own.exists() else None


class LocalPlatform:
    """Runs pods as processes of this machine; see `tasks.platform.base.Platform`."""

    is_cluster = False
    progress_every_s = 0.3

    def __init__(self, settings: Settings) -> None:
        """Keep everything where the settings' `home` says."""
        self._settings = settings
        self.on_answer: OnAnswer | None = None  # there is no API server here
        self.store = Store(settings.home_dir)

    def paths(
        self, workspace: Workspace, *, model: str, revision: str, candidate: int | None = None
    ) -> PodPaths:
        """Where the Workspace's pods find their files."""
        folder = self.store.pod_dir(workspace, candidate)
        home = self._settings.home_dir
        return PodPaths(
            config_dir=folder / "config",
            source_dir=folder / "source",
            data_dir=folder / "data",
            results_dir=folder / "results",
            adapter_dir=folder / "adapter",
            weights_dir=weights_dir(home, model=model, revision=revision),
            images_dir=home / "images",
            admin_key_file=self.admin_key_file(workspace),
            user_keys_file=self.store.workspace_dir(workspace) / "user-keys",
        )

    def admin_key_file(self, workspace: Workspace) -> Path:
        """Where the key lies that opens the server's admin endpoints, for this user alone."""
        return self.store.workspace_dir(workspace) / "admin-key"

    async def apply(self, workspace: Workspace) -> Workspace:
        """The object as it is kept; kept now, when it came without a uid from a form.

        Raises: RunSuperseded, InvalidWorkspace: see `expect_asked`. StateUnreadable.
        """
        if workspace.metadata.uid:
            return expect_asked(self.store.read(workspace), workspace)
        return self.store.apply(Manifests(workspace=workspace))

    async def find(self, namespace: str, name: str) -> Workspace | None:
        """The Workspace as it was applied last.

        Raises: StateUnreadable.
        """
        metadata = ObjectMeta(name=name, namespace=namespace)
        return self.store.read(Workspace.model_construct(metadata=metadata))

    async def as_it_is(self, workspace: Workspace) -> Workspace:
        """The same: an edit of it begins with a run of its own."""
        return workspace

    async def is_current(self, workspace: Workspace) -> bool:  # noqa: ARG002
        """Always: one run holds the object, and a newer generation waits for it."""
        return True

    async def is_being_deleted(self, workspace: Workspace) -> bool:  # noqa: ARG002
        """Never: deleting removes the object at once."""
        return False

    async def read_status(self, workspace: Workspace) -> WorkspaceStatus:
        """The status as last written; an empty one for a new Workspace."""
        return self.store.read_status(workspace)

    async def write_status(self, workspace: Workspace, status: WorkspaceStatus) -> None:
        """Replace the status as a whole."""
        self.store.write_status(workspace, status)

    async def record_event(
        self, workspace: Workspace, *, reason: str, message: str, is_warning: bool
    ) -> None:
        """A line in the Workspace's folder."""
        now = utc_text(datetime.now(UTC))
        event = RecordedEvent(at=now, reason=reason, message=message, is_warning=is_warning)
        self.store.add_event(workspace, event)

    async def look_around(self, workspace: Workspace, *, push: bool, port: int | None) -> World:
        """What the checks need to know of this machine."""
        secret = workspace.tuning.output.image_push_secret if workspace.tuning else None
        found = await self.docker_config(workspace, secret) if push and secret else None
        name = workspace.config_name
        data = await self.read_config_map(workspace, name) if name else None
        status = self.store.read_status(workspace)
        own_port = None
        if status.endpoint and self.is_serving(workspace):
            own_port = _port_of(status.endpoint)
        return World(
            node=await self.node(),
            config_maps={name: data} if name and data is not None else {},
            has_secret=lambda _name: found is not None,
            docker_config=found.read_bytes() if found else None,
            home=self._settings.home_dir,
            push=push,
            tuned=status.tuned,
            tuned_before=status.adapters.proven,
            rivals=self._rivals(workspace),
            allow_commands=self._settings.allow_commands,
            port=port,
            port_is_free=lambda number: number == own_port or is_free(number),
        )

    def _rivals(self, workspace: Workspace) -> Rivals:
        stored = self.store.list()
        return rivals(
            workspace,
            (writer(e.workspace, e.status, created=e.created.isoformat()) for e in stored),
        )

    async def namespace_rules(self, workspace: Workspace) -> NamespaceRules:  # noqa: ARG002
        """Nothing is ruled on one machine."""
        return NamespaceRules()

    async def rehearse(self, workspace: Workspace, pod: Pod) -> list[Diagnosis]:  # noqa: ARG002
        """Nobody refuses a process."""
        return []

    async def read_config_map(self, workspace: Workspace, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap that came with a Workspace's file."""
        return self.store.read_config_map(workspace.metadata.namespace, name)

    async def docker_config(self, workspace: Workspace, secret: str) -> Path | None:
        """The Secret that came with the Workspace's file, else docker's own config of this user."""
        manifest = self.store.read_secret(workspace.metadata.namespace, secret)
        if manifest:
            path = self.store.workspace_dir(workspace) / "secrets" / f"{secret}.json"
            write_atomically(path, docker_config_of(manifest))
            return path
        return own_docker_config()

    async def pull_logins(self, workspace: Workspace) -> Sequence[bytes]:  # noqa: ARG002
        """There are none, since no image has a dataset that is tuned on this machine."""
        return ()

    async def judge_key_file(self, workspace: Workspace) -> Path | None:
        """A file for this user alone, of the Secret that came with the Workspace's file."""
        metadata = workspace.metadata
        secret = self.store.read_secret(metadata.namespace, judge_key_secret(metadata.name))
        key = judge_key_in(secret)
        if not key:
            return None
        path = self.store.workspace_dir(workspace) / "secrets" / "judge-key"
        write_atomically(path, key.encode())
        return path

    async def node(self) -> Node:
        """This machine."""
        return Node(
            name=os.uname().nodename,
            cores=len(psutil.Process().cpu_affinity() or [0])
            if hasattr(psutil.Process, "cpu_affinity")
            else os.cpu_count() or 1,
            memory_gib=psutil.virtual_memory().available / 2**30,
            gpus=len(list(Path("/proc/driver/nvidia/gpus").glob("*"))),
            has_bf16=cpu_has_bf16(),
        )

    @contextlib.asynccontextmanager
    async def hold_run(
        self,
        workspace: Workspace,
        *,
        adapter_run: AdapterRun | None = None,  # noqa: ARG002
    ) -> AsyncIterator[None]:
        """Be the only run of a Workspace; the lock goes with the process, however it ends."""
        folder = self.store.workspace_dir(workspace)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "run.lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_progress(workspace) from None
            self._write_holder(folder)
            try:
                yield
            finally:
                (folder / "run.json").unlink(missing_ok=True)

    @staticmethod
    def _write_holder(folder: Path) -> None:
        me = psutil.Process()
        record = {"pid": me.pid, "started": me.create_time(), "config_digest": ""}
        write_atomically(folder / "run.json", json.dumps(record).encode())

    def expect_no_run(self, workspace: Workspace) -> None:
        """Nothing, unless the Workspace is being run.

        Raises: RunInProgress: by a process that lives.
        """
        if self.run_holder(workspace):
            raise _in_progress(workspace)

    def run_holder(self, workspace: Workspace) -> psutil.Process | None:
        """The process that runs the Workspace's flow now."""
        try:
            record = json.loads((self.store.workspace_dir(workspace) / "run.json").read_bytes())
            return ProcessRecord(**record).process()
        except (FileNotFoundError, ValueError, TypeError):
            return None

    async def follow(
        self, workspace: Workspace, pod: Pod, container: Container
    ) -> AsyncGenerator[Event | str]:
        """Run a pod program to its end; cancelling the iteration stops it."""
        folder = self.store.pod_dir(workspace, pod.candidate)
        for name, text in pod.files.items():
            write_atomically(folder / "config" / name, text.encode())
        process = ContainerProcess(folder, container.name)
        grace_s = self._settings.stop_grace_s
        async with contextlib.aclosing(
            follow_to_result(process, container, grace_s=grace_s)
        ) as lines:
            async for said in lines:
                yield said

    async def server_address(self, workspace: Workspace, *, port: int | None) -> Address:
        """Loopback; when no port is asked for, the one it had before or the first free one."""
        endpoint = self.store.read_status(workspace).endpoint
        previous = _port_of(endpoint) if endpoint else None
        chosen = port  # the server itself refuses a port that is taken
        if chosen is None and previous and (self.is_serving(workspace) or is_free(previous)):
            chosen = previous
        if chosen is None:
            candidates = range(_FIRST_PORT, _FIRST_PORT + _PORTS_TRIED)
            chosen = next((port for port in candidates if is_free(port)), _FIRST_PORT)
        return Address(host=HOST, port=chosen, url=f"http://{HOST}:{chosen}")

    async def ensure_server(
        self, workspace: Workspace, pod: Pod, *, endpoint: Endpoint
    ) -> AsyncGenerator[Event | str]:
        """Have the server running and answering /health; it stays when the run has ended."""
        if not self.admin_key_file(workspace).exists():
            write_atomically(self.admin_key_file(workspace), secrets.token_urlsafe(32).encode())
        await self._stop_servers(workspace, but_in=self.store.generation_dir(workspace))
        container = pod.containers[-1]
        process = ContainerProcess(self.store.generation_dir(workspace), container.name)
        await process.ensure_started(container, grace_s=self._settings.stop_grace_s)
        ready = asyncio.create_task(self._wait_ready(endpoint.url))
        try:
            async with contextlib.aclosing(_until(process.lines(), ready)) as lines:
                async for said in lines:
                    yield said
                    if isinstance(said, dict) and said["event"] == "verdict":
                        raise_for_verdict(said, container.name, process.log)
            if not ready.done():
                raise_for_verdict(None, container.name, process.log)
            await ready
        except BaseException:
            await asyncio.shield(process.stop(grace_s=self._settings.stop_grace_s))
            raise
        finally:
            ready.cancel()

    async def admin_key(self, workspace: Workspace) -> str:
        """The key of the server's process, if it lives."""
        file = self.admin_key_file(workspace)
        return file.read_text() if self.is_serving(workspace) and file.exists() else ""

    async def renew_server(self, workspace: Workspace, pod: Pod) -> None:
        """Nothing: a server that ends here is started by a run, which knows what it is to be."""

    async def end_server(self, workspace: Workspace) -> None:
        """Have no server process of the Workspace."""
        await self._stop_servers(workspace)

    async def _stop_servers(self, workspace: Workspace, *, but_in: Path | None = None) -> None:
        for folder in self.store.workspace_dir(workspace).glob("generation-*"):
            if folder != but_in:
                await ContainerProcess(folder, SERVER).stop(grace_s=self._settings.stop_grace_s)

    async def _wait_ready(self, url: str) -> None:
        limit_s = self._settings.server_ready_timeout_s
        try:
            async with asyncio.timeout(limit_s), httpx2.AsyncClient(trust_env=False) as client:
                while not await _is_healthy(client, url):
                    await asyncio.sleep(_PROBE_S)
        except TimeoutError:
            raise ServerNotReady(
                f"the server at {url} was asked for /health",
                f"it was not ready within {limit_s:.0f} s",
                "see `kaitoflow logs` or raise KAITOFLOW_SERVER_READY_TIMEOUT_S",
            ) from None

    def is_serving(self, workspace: Workspace) -> bool:
        """Whether a server process of the Workspace lives.

        It may be an older generation's: an edit that fails stops none.
        """
        folders = self.store.workspace_dir(workspace).glob("generation-*")
        return any(ContainerProcess(folder, SERVER).running() for folder in folders)

    async def pause_server(self, workspace: Workspace) -> None:
        """Nothing: a server is no tuning's to wait for on one machine."""

    async def resume_server(self, workspace: Workspace) -> None:
        """Nothing: none pauses."""

    async def restore_server(self, workspace: Workspace) -> Workspace | None:  # noqa: ARG002
        """Return None: on one machine nobody looks after a server once its run has ended."""
        return None

    async def served(self, workspace: Workspace) -> Workspace | None:  # noqa: ARG002
        """Return None: on one machine a server is its generation's alone."""
        return None

    async def served_images(self, workspace: Workspace) -> Collection[str]:  # noqa: ARG002
        """Return none: here a status is lost with its Workspace."""
        return ()

    async def await_served(self, workspace: Workspace) -> AsyncGenerator[Event | str]:  # noqa: ARG002
        """Yield nothing: nothing is restored here."""
        return
        yield

    async def server_gpus(self, workspace: Workspace) -> int:  # noqa: ARG002
        """Return 0: a server here has whatever the machine has."""
        return 0

    async def has_server(self, workspace: Workspace, pod: Pod) -> bool:  # noqa: ARG002
        """Return False: what its containers have done already takes no time here."""
        return False

    async def server_nodes(self, workspace: Workspace, generation: int) -> Collection[str] | None:  # noqa: ARG002
        """Return no node: none is made for a server, and none has to be kept."""
        return ()

    async def leave_nodes(
        self,
        workspace: Workspace,  # noqa: ARG002
        *,
        but: Collection[str] = (),  # noqa: ARG002
    ) -> Mapping[str, str]:
        """Nothing: this machine does not tell its end ahead."""
        return {}

    async def end(self, workspace: Workspace, pod: Pod) -> None:
        """Nothing: a container that is not followed any more has been stopped."""

    async def end_tuning(self, workspace: Workspace, *, candidate: int | None = None) -> None:
        """Nothing: as in `end`."""

    async def stop(self, workspace: Workspace) -> list[str]:
        """Stop the run, its pod programs and the server; the names of what was stopped."""
        grace_s = self._settings.stop_grace_s
        stopped = []
        holder = self.run_holder(workspace)
        if holder and holder.pid != os.getpid():
            holder.terminate()
            await asyncio.to_thread(psutil.wait_procs, [holder], timeout=grace_s)
            stopped.append("run")
        told = sorted(self.store.workspace_dir(workspace).glob("*/config/*.json"))
        processes = [ContainerProcess(each.parent.parent, each.stem) for each in told]
        return stopped + [each.name for each in processes if await each.stop(grace_s=grace_s)]

    async def delete(self, workspace: Workspace) -> None:
        """Stop everything and forget the Workspace with its files."""
        await self.stop(workspace)
        self.store.delete(workspace)

    async def let_go(self, workspace: Workspace) -> None:
        """Nothing: `delete` has forgotten it."""


def _in_progress(workspace: Workspace) -> RunInProgress:
    name = workspace.metadata.name
    return RunInProgress(
        f"workspace {workspace} was asked to run",
        "another run holds it",
        f"watch that one (kaitoflow get {name} -w) or end it (kaitoflow stop {name})",
    )


async def _is_healthy(client: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/health", timeout=5)).status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


async def _until(
    lines: AsyncGenerator[Event | str], done: asyncio.Task[None]
) -> AsyncGenerator[Event | str]:
    """Lines until a task is done or the lines end, whichever comes first."""
    while True:
        following = asyncio.ensure_future(anext(lines, None))
        await asyncio.wait({following, done}, return_when=asyncio.FIRST_COMPLETED)
        if not following.done():
            following.cancel()
            return
        said = following.result()
        if said is None:
            return
        yield said


def _port_of(endpoint: Endpoint) -> int:
    return int(endpoint.url.rsplit(":", 1)[1])


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
