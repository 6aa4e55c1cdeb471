"""A made-up node, whose kubelet has only logs: what the API server asks it for, as it asks it."""

import datetime as dt
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.cluster.control_plane import ControlPlane


@dataclass
class ContainerLog:
    """Lines with their times; `is_over` once no more will come."""

    lines: list[str] = field(default_factory=list)
    is_over: bool = True
    changed: threading.Condition = field(default_factory=threading.Condition)

    def say(self, *texts: str) -> None:
        """More lines, one nanosecond apart."""
        with self.changed:
            for text in texts:
                moment = f"2026-01-01T00:00:00.{len(self.lines):09d}Z"
                self.lines.append(f"{moment} {text}")
            self.changed.notify_all()

    def after(self, count: int, *, wait: bool) -> list[str]:
        """The lines after so many; with `wait` at least one, unless the log is over."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.lines) > count or self.is_over or not wait)
            return self.lines[count:]

    def end(self) -> None:
        with self.changed:
            self.is_over = True
            self.changed.notify_all()


class Kubelet:
    """The logs of one node's containers, by pod and container; previous ones apart."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.logs: dict[tuple[str, str, bool], ContainerLog] = {}
        self.drop_after: int | None = None
        """Break the next log off after so many lines, as a broken connection does."""

    def log(self, pod: str, container: str, *, previous: bool = False) -> ContainerLog:
        return self.logs.setdefault((pod, container, previous), ContainerLog())


@contextmanager
def running_kubelet(control_plane: ControlPlane, name: str, folder: Path) -> Iterator[Kubelet]:
    """A node of that name, for as long as the context lasts."""
    kubelet = Kubelet(name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kubelet))
    server.daemon_threads = True
    secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secured.load_cert_chain(_certificate(folder))
    server.socket = secured.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    _register(control_plane, name, server.server_address[1])
    try:
        yield kubelet
    finally:
        control_plane.kubectl("delete", "node", name)
        for log in kubelet.logs.values():
            log.end()
        server.shutdown()
        server.server_close()
        thread.join()


def _register(control_plane: ControlPlane, name: str, port: int) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "conditions": [{"type": "Ready", "status": "True", "reason": "MadeUp"}],
    }
    control_plane.kubectl("create", "--filename=-", stdin=json.dumps(node))
    control_plane.kubectl(
        *("patch", "node", name, "--subresource=status", "--type=merge"),
        *("--patch", json.dumps({"status": status})),
    )


def _handler(kubelet: Kubelet) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = parse_qs(address.query)
            _, _, _, pod, container = address.path.split("/")
            previous = query.get("previous") == ["true"]
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            log = kubelet.log(pod, container, previous=previous)
            self._write(log, follow=query.get("follow") == ["true"])

        def _write(self, log: ContainerLog, *, follow: bool) -> None:
            sent, limit = 0, kubelet.drop_after
            kubelet.drop_after = None
            while sent != limit:
                waiting = log.after(sent, wait=follow)[: None if limit is None else limit - sent]
                if not waiting:
                    return
                self.wfile.write("".join(f"{line}\n" for line in waiting).encode())
                self.wfile.flush()
                sent += len(waiting)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _certificate(folder: Path) -> Path:
    """A key and its certificate; the API server asks for no particular one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubelet")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "kubelet.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
