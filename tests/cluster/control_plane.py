"""A real Kubernetes control plane on loopback: etcd, kube-apiserver and, if asked, controllers.

By itself it has no node: pods stay Pending unless a test plays the kubelet and writes their
status. tests/cluster/cluster.py starts it with real ones.

Run as `python -m tests.cluster.control_plane FOLDER` to have one until Ctrl-C.
"""

import argparse
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cluster import commands
from tests.cluster.enclosure import LOOPBACK, Site, forwarded
from tests.cluster.kubeconfig import write_kubeconfig
from tests.cluster.ports import free_port
from tests.cluster.program import Program

ADMIN = "admin"
_START_LIMIT_S = 90.0


@dataclass(frozen=True)
class ControlPlane:
    """A control plane that answers; `kubeconfig` is its administrator's."""

    folder: Path
    url: str
    token: str = field(repr=False)
    etcd: Program
    api_server: Program

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def ca_file(self) -> Path:
        return self.folder / commands.CERTIFICATES / "apiserver.crt"

    def component_kubeconfig(self, user: str) -> Path:
        """The kubeconfig of one of the `users`, for a program that runs beside the API server."""
        return self.folder / f"{user}.component.kubeconfig"

    def kubectl(
        self, *arguments: str | Path, stdin: str | None = None, kubeconfig: Path | None = None
    ) -> str:
        """What kubectl prints, as the administrator unless another `kubeconfig` is given.

        Raises: RuntimeError: it exits with an error; says what it said.
        """
        answer = subprocess.run(
            [Path(sys.executable).with_name("kubectl"), *arguments],
            env={"KUBECONFIG": str(kubeconfig or self.kubeconfig), "HOME": str(self.folder)},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            command = " ".join(str(argument) for argument in arguments)
            raise RuntimeError(f"kubectl {command} should succeed, but said: {answer.stderr}")
        return answer.stdout

    def workspace(self, namespace: str, name: str) -> dict[str, Any]:
        """The Workspace as the API server has it, or {} when there is none.

        For tests that look again and again: kubectl takes 60 ms of a core each time.
        """
        answer = httpx2.get(
            f"{self.url}/apis/kaito.sh/v1beta1/namespaces/{namespace}/workspaces/{name}",
            headers={"Authorization": f"Bearer {self.token}"},
            verify=self._trusted,
            trust_env=False,
            timeout=60,
        )
        if answer.status_code == httpx2.codes.NOT_FOUND:
            return {}
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)

    def define(self, name: str, definition: str) -> None:
        """Return when the API server serves this CustomResourceDefinition, which may change one.

        `kubectl wait` would not do: it fails on one that is too new to have conditions.
        """
        apply = ("apply", "--server-side", "--force-conflicts", "--filename=-")
        self.kubectl(*apply, stdin=definition)
        deadline_s = time.monotonic() + _START_LIMIT_S
        while not _is_established(self.kubectl("get", "crd", name, "--output=json")):
            assert time.monotonic() < deadline_s, f"{name} should be established"
            time.sleep(0.1)

    def service_account_token(self, namespace: str, name: str, *, duration_s: int = 3600) -> str:
        """A token of the ServiceAccount, as its pods get one; at least 600 s long."""
        duration = f"--duration={duration_s}s"
        return self.kubectl("create", "token", name, "--namespace", namespace, duration).strip()

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig that may do what the ServiceAccount may."""
        return write_kubeconfig(
            self.folder / f"{namespace}.{name}.kubeconfig",
            server=self.url,
            ca_file=self.ca_file,
            token=self.service_account_token(namespace, name),
            namespace=namespace,
        )

    def stop_api_server(self) -> None:
        """An outage: nothing answers at `url` until `start_api_server`; etcd keeps everything."""
        # It would wait a minute for its clients to end their watches.
        self.api_server.stop(limit_s=3.0)

    def start_api_server(self) -> None:
        """Start it at the same address and wait until it is ready."""
        self.api_server.start()
        self.api_server.wait_until(self.is_ready, limit_s=_START_LIMIT_S)

    def restart_api_server(self) -> None:
        """Stop it and start it again: watches break, and every object is still there."""
        self.stop_api_server()
        self.start_api_server()

    def is_ready(self) -> bool:
        """Whether the API server says that all of it has started."""
        if not self.ca_file.exists():
            return False
        try:
            trusted = ssl.create_default_context(cafile=self.ca_file)
            with httpx2.Client(verify=trusted, trust_env=False, timeout=5.0) as client:
                answer = client.get(
                    f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token}"}
                )
        except (httpx2.TransportError, ssl.SSLError):
            return False
        return answer.status_code == 200


def _is_established(definition: str) -> bool:
    conditions = json.loads(definition).get("status", {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


@contextmanager
def running_control_plane(
    folder: Path,
    *,
    controllers: bool = False,
    site: Site = LOOPBACK,
    users: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[ControlPlane]:
    """A control plane that keeps everything in `folder`; empty but for what Kubernetes makes.

    Args: controllers: run kube-controller-manager and kube-scheduler too, so that Jobs make
    pods, owners take what they own with them, and namespaces go when they are deleted.
    users: names with the group of each; for components, which find a kubeconfig in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_service_account_key(folder / commands.SERVICE_ACCOUNT_KEY)
    port, tokens = free_port(), {name: secrets.token_urlsafe() for name in (ADMIN, *users)}
    _write_tokens(folder / commands.TOKENS, tokens, {ADMIN: "system:masters", **users})
    control_plane = _prepare(folder, site, port=port, token=tokens[ADMIN])
    for name in (ADMIN, *users):
        write_kubeconfig(
            control_plane.component_kubeconfig(name),
            server=f"https://{site.address}:{port}",
            ca_file=control_plane.ca_file,
            token=tokens[name],
        )
    with ExitStack() as running:
        running.enter_context(_reachable(site, port, folder))
        running.callback(control_plane.etcd.stop)
        control_plane.etcd.start()
        running.callback(control_plane.stop_api_server)
        control_plane.start_api_server()
        for program in _controllers(control_plane, site) if controllers else ():
            running.callback(program.stop)
            program.start()
        yield control_plane


def _prepare(folder: Path, site: Site, *, port: int, token: str) -> ControlPlane:
    etcd_url = f"http://127.0.0.1:{free_port()}"
    api_server = commands.api_server(folder, site, etcd_url=etcd_url, port=port)
    control_plane = ControlPlane(
        folder=folder,
        url=f"https://{'127.0.0.1' if site.enclosure is None else 'localhost'}:{port}",
        token=token,
        etcd=_program(folder, site, commands.etcd(folder, etcd_url)),
        api_server=_program(folder, site, api_server),
    )
    write_kubeconfig(
        control_plane.kubeconfig,
        server=control_plane.url,
        ca_file=control_plane.ca_file,
        token=token,
    )
    return control_plane


def _program(folder: Path, site: Site, command: list[str | Path]) -> Program:
    name = Path(command[0]).name
    return Program(name, site.command(*command), folder / f"{name}.log")


@contextmanager
def _reachable(site: Site, port: int, folder: Path) -> Iterator[None]:
    """From this machine's loopback, wherever the API server is."""
    if site.enclosure is None:
        yield
        return
    here, there = (os.getpid(), f"127.0.0.1:{port}"), (site.enclosure.pid, f"{site.address}:{port}")
    with forwarded("to-kube-apiserver", listen=here, connect=there, folder=folder):
        yield


def _controllers(control_plane: ControlPlane, site: Site) -> list[Program]:
    folder, kubeconfig = control_plane.folder, control_plane.component_kubeconfig(ADMIN)
    return [
        _program(folder, site, commands.controller_manager(folder, site, kubeconfig)),
        _program(folder, site, commands.scheduler(kubeconfig)),
    ]


def _write_tokens(path: Path, tokens: Mapping[str, str], groups: Mapping[str, str]) -> None:
    path.touch(mode=0o600)
    path.write_text(
        "".join(f'{token},{name},{name},"{groups[name]}"\n' for name, token in tokens.items())
    )


def _write_service_account_key(path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    with running_control_plane(folder, controllers=True) as control_plane:
        sys.stdout.write(f"export KUBECONFIG={control_plane.kubeconfig}\n")
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    _main()
