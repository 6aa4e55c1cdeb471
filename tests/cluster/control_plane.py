"""A real Kubernetes control plane on loopback: etcd, kube-apiserver and, if asked, controllers.

There is no node: pods stay Pending unless a test plays the kubelet and writes their status.

Run as `python -m tests.cluster.control_plane FOLDER` to have one until Ctrl-C.
"""

import argparse
import secrets
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cluster.build import tool
from tests.cluster.kubeconfig import write_kubeconfig
from tests.cluster.ports import free_port
from tests.cluster.program import Program

ADMIN_KUBECONFIG = "admin.kubeconfig"
SERVICE_CIDR = "10.96.0.0/16"
_ISSUER = "https://kubernetes.default.svc.cluster.local"
_START_LIMIT_S = 90.0
# A Node that a test wrote has no heartbeat; it keeps the status that the test gave it.
_NODES_NEED_NO_HEARTBEAT = "--node-monitor-grace-period=24h"


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
        return self.folder / ADMIN_KUBECONFIG

    @property
    def ca_file(self) -> Path:
        return self.folder / "certificates" / "apiserver.crt"

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


@contextmanager
def running_control_plane(folder: Path, *, controllers: bool = False) -> Iterator[ControlPlane]:
    """A control plane that keeps everything in `folder`; empty but for what Kubernetes makes.

    Args: controllers: run kube-controller-manager and kube-scheduler too, so that Jobs make
    pods, owners take what they own with them, and namespaces go when they are deleted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        control_plane = _prepare(folder)
        _start(running, control_plane.etcd)
        running.callback(control_plane.stop_api_server)
        control_plane.start_api_server()
        if controllers:
            for program in _controllers(control_plane):
                _start(running, program)
        yield control_plane


def _start(running: ExitStack, program: Program) -> None:
    running.callback(program.stop)
    program.start()


def _prepare(folder: Path) -> ControlPlane:
    etcd_url, port = f"http://127.0.0.1:{free_port()}", free_port()
    token = secrets.token_urlsafe()
    tokens = folder / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f'{token},admin,admin,"system:masters"\n')
    _write_service_account_key(folder / "service-account.key")
    control_plane = ControlPlane(
        folder=folder,
        url=f"https://127.0.0.1:{port}",
        token=token,
        etcd=Program("etcd", _etcd_command(folder, etcd_url), folder / "etcd.log"),
        api_server=Program(
            "kube-apiserver",
            _api_server_command(folder, etcd_url=etcd_url, port=port),
            folder / "kube-apiserver.log",
        ),
    )
    write_kubeconfig(
        control_plane.kubeconfig,
        server=control_plane.url,
        ca_file=control_plane.ca_file,
        token=token,
    )
    return control_plane


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


def _etcd_command(folder: Path, url: str) -> list[str | Path]:
    peers = f"http://127.0.0.1:{free_port()}"
    return [
        tool("etcd"),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server_command(folder: Path, *, etcd_url: str, port: int) -> list[str | Path]:
    return [
        tool("kube-apiserver"),
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",  # a loopback address cannot be an endpoint
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        f"--service-account-issuer={_ISSUER}",
        f"--service-account-key-file={folder / 'service-account.key'}",
        f"--service-account-signing-key-file={folder / 'service-account.key'}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--allow-privileged=true",
    ]


def _controllers(control_plane: ControlPlane) -> list[Program]:
    folder = control_plane.folder
    arguments = [
        f"--kubeconfig={control_plane.kubeconfig}",
        "--secure-port=0",
        "--leader-elect=false",
    ]
    of_the_manager = [
        _NODES_NEED_NO_HEARTBEAT,
        f"--root-ca-file={control_plane.ca_file}",
        f"--service-account-private-key-file={folder / 'service-account.key'}",
    ]
    commands: dict[str, list[str]] = {
        "kube-controller-manager": arguments + of_the_manager,
        "kube-scheduler": arguments,
    }
    return [
        Program(name, [tool(name), *command], folder / f"{name}.log")
        for name, command in commands.items()
    ]


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
