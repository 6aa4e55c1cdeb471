"""`kaitoflow chat` and `adapters` before a cluster: through the API server to the Service.

The API server proxies to no loopback address, so it runs in an enclosure, where the server of the
Workspace has an address of its own.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tasks.contract.artifacts import Endpoint, PublishedImage
from tasks.contract.status import State
from tests.cluster.control_plane import ControlPlane, running_control_plane
from tests.cluster.enclosure import Site, forwarded, running_enclosure
from tests.flows.cluster.conftest import CRD, Terminal, running_status, terminal_before, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ADDRESS = "10.200.0.1"
LABELS = {"kaito.sh/workspace": "tuned", "kaitoflow.io/pod": "inference"}


class Model:
    """A server that says each of its words once it may."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.words: list[str] = []
        self.may_go_on = threading.Event()
        self.refusal = ""
        self.keys: list[str | None] = []
        self.adapters: list[str] = []


@contextmanager
def answering(model: Model) -> Iterator[str]:
    """The HOST:PORT on loopback where a model answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            model.keys.append(self.headers["X-API-Key"])
            versions = [
                {"version": name, "parent": "base", "digest": "5f" * 32, "in_memory": True}
                for name in model.adapters
            ]
            names = [{"name": name, "version": name, "canary": None} for name in model.adapters]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"versions": versions, "names": names}).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            model.asked.append({"path": self.path, **json.loads(body)})
            self.send_response(400 if model.refusal else 200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            if model.refusal:
                self.wfile.write(json.dumps({"error": {"message": model.refusal}}).encode())
                return
            for word in model.words:
                said = {"choices": [{"delta": {"content": word}}]}
                self.wfile.write(f"data: {json.dumps(said)}\n\n".encode())
                self.wfile.flush()
                model.may_go_on.wait(60)
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def enclosed(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[ControlPlane]:
    """A control plane whose pods' network has one address, where the model answers."""
    if os.geteuid() != 0:
        pytest.skip("an enclosure needs root")
    folder = tmp_path_factory.mktemp("enclosed")
    with running_enclosure("machine", folder) as machine, answering(model) as here:
        machine.ip("address", "add", f"{ADDRESS}/32", "dev", "lo")
        there = (machine.pid, f"{ADDRESS}:5000")
        site = Site(ADDRESS, machine)
        with (
            forwarded("model", listen=there, connect=(os.getpid(), here), folder=folder),
            running_control_plane(folder / "cp", controllers=True, site=site) as running,
        ):
            running.define("workspaces.kaito.sh", CRD.read_text())
            yield running


@pytest.fixture(scope="module")
def serving(enclosed: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A Workspace whose server is ready, so that its Service has an endpoint."""
    folder = tmp_path_factory.mktemp("terminal")
    with terminal_before(enclosed, "default", folder) as terminal:
        wait_for(lambda: bool(terminal.object("default", "serviceaccount")))
        have_workspace(terminal)
        have_node(terminal)
        wait_for(lambda: "nodeName" in terminal.object("tuned-0", "pod").get("spec", {}))
        status = {
            "phase": "Running",
            "podIP": ADDRESS,
            "podIPs": [{"ip": ADDRESS}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        terminal.patch("pod", "tuned-0", {"status": status}, subresource="status")
        wait_for(lambda: ready_replicas(terminal) == 1)
        wait_for(lambda: has_endpoint(terminal))
        yield terminal


def ready_replicas(terminal: Terminal) -> int:
    return int(terminal.object("tuned", "statefulset")["status"].get("readyReplicas", 0))


def have_node(terminal: Terminal) -> None:
    """A node without a kubelet; a Service leads to no pod without a node."""
    status = {
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "MadeUp"}],
    }
    terminal.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "made-up"}})
    terminal.patch("node", "made-up", {"status": status}, subresource="status")


def have_workspace(terminal: Terminal) -> None:
    terminal.create(terminal.tuning_manifest())
    status = running_status()
    status.state, status.endpoint = (
        State.READY,
        Endpoint(url="http://tuned.default.svc", model="tuned"),
    )
    status.image = PublishedImage(reference="r.example.com/a:1", digest=f"sha256:{'5f' * 32}")
    terminal.write_status("tuned", status)
    ports = [{"name": "http", "port": 80, "targetPort": 5000}]
    service = {"selector": LABELS, "ports": ports}
    stateful_set = {
        "serviceName": "tuned",
        "selector": {"matchLabels": LABELS},
        "template": {
            "metadata": {"labels": LABELS},
            "spec": {"containers": [{"name": "serve", "image": "example.com/pod"}]},
        },
    }
    for version, kind, spec in (
        ("v1", "Service", service),
        ("apps/v1", "StatefulSet", stateful_set),
    ):
        metadata = {"name": "tuned"}
        terminal.create({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})


def has_endpoint(terminal: Terminal) -> bool:
    of_service = "--selector=kubernetes.io/service-name=tuned"
    return ADDRESS in terminal.kubectl("get", "endpointslices", of_service, "--output=yaml")


def test_words_arrive_as_they_are_said(serving: Terminal, model: Model) -> None:
    model.words = ["Forty", "-two"]
    model.may_go_on.clear()
    chat = serving.start("chat", "tuned", "What is the answer?")
    wait_for(lambda: chat.said() == "Forty")
    model.may_go_on.set()
    assert chat.ended() == (0, "Forty-two\n")
    asked = model.asked[-1]
    assert (asked["path"], asked["model"]) == ("/v1/chat/completions", "tuned")
    assert asked["messages"] == [{"role": "user", "content": "What is the answer?"}]


def test_what_the_server_refuses_is_told(serving: Terminal, model: Model) -> None:
    model.refusal = "the context is too long"
    ended = serving.kaitoflow("chat", "tuned", "What is the answer?")
    model.refusal = ""
    assert ended.returncode == 1
    assert ended.stderr.startswith("ServerNotReady: ")
    assert "the context is too long" in ended.stderr


def test_a_server_that_is_not_ready_is_told(serving: Terminal) -> None:
    serving.create(serving.tuning_manifest("other"))
    ended = serving.kaitoflow("chat", "other", "Hello?")
    assert ended.returncode == 1
    assert "its server is not running" in ended.stderr


def test_a_service_without_endpoints_is_told(serving: Terminal) -> None:
    serving.kubectl("patch", "service", "tuned", "--patch", '{"spec": {"selector": {"a": "b"}}}')
    wait_for(lambda: not has_endpoint(serving))
    ended = serving.kaitoflow("chat", "tuned", "Hello?")
    undo = json.dumps({"spec": {"selector": {"a": None}}})
    serving.kubectl("patch", "service", "tuned", "--patch", undo)
    wait_for(lambda: has_endpoint(serving))
    assert ended.returncode == 1
    assert "no endpoints available" in ended.stderr


def test_a_long_answer_arrives_whole(serving: Terminal, model: Model) -> None:
    model.words = [f"{number} " for number in range(500)]
    model.may_go_on.set()
    ended = serving.kaitoflow("chat", "tuned", "Count.")
    assert ended.stdout.split() == [str(number) for number in range(500)]


def test_adapters_are_administered_with_the_key_of_the_workspaces_secret(
    serving: Terminal, model: Model
) -> None:
    without = serving.kaitoflow("adapters", "tuned")
    assert without.returncode == 1
    assert "kubectl create secret generic tuned-admin-key" in without.stderr
    serving.kubectl("create", "secret", "generic", "tuned-admin-key", "--from-literal=key=sesame")
    model.words, model.adapters = [], ["next"]
    loaded = serving.kaitoflow("adapters", "tuned", "load", "next", "r.example.com/a:2")
    assert loaded.returncode == 0, loaded.stderr
    assert model.asked[-1] == {
        "path": "/v1/load_lora_adapter",
        "lora_name": "next",
        "lora_path": "r.example.com/a:2",
        "load_inplace": False,
    }
    assert model.keys[-1] == "sesame"
    assert loaded.stdout.splitlines()[1].split() == ["next", "next", "base", "yes", "5f" * 6]


def test_weights_are_not_merged_away_from_where_they_lie(serving: Terminal) -> None:
    ended = serving.kaitoflow("adapters", "tuned", "merge", "nowhere")
    assert ended.returncode == 2
    assert "merge it there" in ended.stderr
