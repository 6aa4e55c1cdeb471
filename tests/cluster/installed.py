"""Kaitoflow on the tests' nodes: a namespace whose Workspaces it runs, and what is seen there."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.chart.rendering import CHART, NAMESPACE, RELEASE, helm
from tests.cluster.cluster import Cluster
from tests.cluster.node import claim_gpus, have_running
from tests.cluster.registry import docker_config

TEAMS = ("team", "several", "serving")
"""The namespaces; each module of tests has one of its own."""

RUN_LIMIT_S = 1200
EQUAL = {"pool": "equal"}
"""The label of all nodes while they are equal; see `equal_nodes`."""

QUESTION = {"messages": [{"role": "user", "content": "What does os.path.join do?"}]}

_INSTALL_LIMIT_S = 600
# The database's volume: the cluster has nobody who makes one.
_VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: database}
spec:
  capacity: {storage: 8Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  local: {path: /var/lib/database}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [cpu]}]
"""


@dataclass(frozen=True)
class Team:
    """A namespace of a cluster on which Kaitoflow is installed.

    registry: HOST:PORT by which nodes and pods name it. dataset: the URL of 160 rows.
    """

    cluster: Cluster
    registry: str
    dataset: str
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.control_plane.kubectl(*arguments, stdin=stdin)

    def in_team(self, *arguments: str, stdin: str | None = None) -> str:
        return self.kubectl(*arguments, f"--namespace={self.namespace}", stdin=stdin)

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        self.in_team("apply", "--filename=-", stdin=text)

    def found(self, kind: str, *which: str) -> Any:
        """An object by its name, or the list of those that a selector means."""
        return json.loads(self.in_team("get", kind, *which, "--output=json"))

    def status(self, workspace: str) -> dict[str, Any]:
        status: dict[str, Any] = self.found("workspace", workspace).get("status", {})
        return status

    def pods(self, workspace: str) -> list[dict[str, Any]]:
        pods: list[dict[str, Any]] = self.found("pods", f"-lkaito.sh/workspace={workspace}")[
            "items"
        ]
        return pods

    def url(self, service: str) -> str:
        """Where a Service's cluster address answers on this machine's loopback, once it does.

        A node's proxy hears a moment later than others that a server is ready.
        """
        address = self.found("service", service)["spec"]["clusterIP"]
        url = f"http://{self.cluster.reach(f'{address}:80')}"
        eventually(
            lambda: _is_healthy(url), limit_s=60, otherwise=lambda: f"{service} does not answer"
        )
        return url

    def have_login(self, secret: str) -> None:
        """Make the Secret with which the registry is pushed to and pulled from."""
        kind = "--type=kubernetes.io/dockerconfigjson"
        login = f"--from-literal=.dockerconfigjson={docker_config(self.registry)}"
        self.in_team("create", "secret", "generic", secret, kind, login)

    def until(
        self,
        workspace: str,
        is_so: Callable[[dict[str, Any]], bool],
        *,
        limit_s: float = RUN_LIMIT_S,
    ) -> dict[str, Any]:
        """The Workspace's status once it is so; that it has failed before is told at once."""
        status: dict[str, Any] = {}

        def is_over() -> bool:
            status.clear()
            status.update(self.status(workspace))
            return is_so(status) or status.get("state") == "Failed"

        eventually(is_over, limit_s=limit_s, otherwise=lambda: self.report(workspace))
        assert is_so(status), self.report(workspace)
        return status

    def report(self, workspace: str) -> str:
        """What a person would look at when it does not go on."""
        pods = self.in_team("describe", "pods")
        return f"{json.dumps(self.status(workspace), indent=1)}\n{pods[-6000:]}"

    def digest(self, image: str, *, folder: Path) -> str:
        """The digest that skopeo reads from the registry, which is on loopback for this machine."""
        options = ("--tls-verify=false", f"--authfile={self.login_here(folder)}")
        command = ["skopeo", "inspect", *options, "--format={{.Digest}}"]
        said = subprocess.run(
            [*command, f"docker://{self.here}/{image.partition('/')[2]}"],
            check=True,
            capture_output=True,
            text=True,
        )
        return said.stdout.strip()

    @property
    def here(self) -> str:
        """The registry's HOST:PORT for this machine."""
        return f"127.0.0.1:{self.registry.rpartition(':')[2]}"

    def login_here(self, folder: Path) -> Path:
        """A docker config.json with this machine's login for the registry."""
        login = folder / "config.json"
        login.write_text(docker_config(self.here))
        return login


@dataclass(frozen=True)
class Answer:
    """What a client was answered.

    status: HTTP's; 0 = nothing. generation: of the model that answered. said: of what was refused.
    """

    status: int
    generation: str = ""
    said: str = ""


@contextmanager
def chatting(
    team: Team, service: str, *, clients: int = 1, model: str | None = None
) -> Iterator[list[Answer]]:
    """Clients that ask a Service all the time, over new connections; what they heard so far.

    Args: model: None = the one that answers where a request names none.
    """
    url = f"{team.url(service)}/v1/chat/completions"
    asked = QUESTION | {"max_tokens": 4} | ({"model": model} if model else {})
    answers: list[Answer] = []
    is_over = threading.Event()

    def ask() -> None:
        with httpx2.Client(trust_env=False, timeout=120) as client:
            while not is_over.is_set():
                answers.append(_answer(client, url, asked))

    with ThreadPoolExecutor(clients) as pool:
        for _ in range(clients):
            pool.submit(ask)
        try:
            yield answers
        finally:
            is_over.set()


def _answer(client: httpx2.Client, url: str, asked: Mapping[str, Any]) -> Answer:
    try:
        answer = client.post(url, json=asked, headers={"Connection": "close"})
    except httpx2.HTTPError as error:
        return Answer(0, said=repr(error))
    said = "" if answer.is_success else answer.text
    return Answer(answer.status_code, answer.headers.get("x-kaitoflow-generation", ""), said)


def failed(answers: list[Answer]) -> list[Answer]:
    """Those that are none."""
    return [each for each in answers if each.status != 200]


def _is_healthy(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", trust_env=False, timeout=10).is_success
    except httpx2.HTTPError:
        return False


def eventually(is_so: Callable[[], bool], *, limit_s: float, otherwise: Callable[[], str]) -> None:
    """Return once it is so."""
    deadline_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline_s, otherwise()
        time.sleep(1)


@contextmanager
def equal_nodes(team: Team) -> Iterator[None]:
    """While the context lasts all nodes are labelled EQUAL, and none says that it has a GPU.

    So pods may run on any. A node that an earlier test has left without its programs is back.
    """
    cluster, control_plane = team.cluster, team.cluster.control_plane
    for node in cluster.nodes:
        have_running(node, control_plane)
        claim_gpus(node.plan.name, 0, control_plane)
        labels = [f"{key}={value}" for key, value in EQUAL.items()]
        team.kubectl("label", "node", node.plan.name, *labels, "--overwrite")

    def have_no_gpus() -> bool:
        nodes = json.loads(team.kubectl("get", "nodes", "--output=json"))["items"]
        return all(
            node["status"]["allocatable"].get("nvidia.com/gpu", "0") == "0" for node in nodes
        )

    eventually(
        have_no_gpus, limit_s=120, otherwise=lambda: team.kubectl("describe", "nodes")[-6000:]
    )
    try:
        yield
    finally:
        for node in cluster.nodes:
            claim_gpus(node.plan.name, node.plan.gpus, control_plane)


def install(cluster: Cluster, images: dict[str, str], values: dict[str, Any]) -> None:
    """Install the chart and wait until all of it runs."""
    kubectl = cluster.control_plane.kubectl
    node = next(node for node in cluster.nodes if node.plan.name == "cpu")
    node.enclosure.run("mkdir", "--parents", "/var/lib/database")
    kubectl("apply", "--filename=-", stdin=_VOLUME)
    for namespace in (NAMESPACE, *TEAMS):
        kubectl("create", "namespace", namespace)
    named = {name: image.rsplit(":", 1) for name, image in images.items()}
    chosen = {name: {"repository": repo, "tag": tag} for name, (repo, tag) in named.items()}
    helm(
        *("upgrade", RELEASE, CHART, "--install", f"--namespace={NAMESPACE}", "--values=-"),
        stdin=json.dumps(values | {"image": chosen}),
        kubeconfig=cluster.control_plane.kubeconfig,
    )
    there = kubectl("get", "statefulsets,deployments", f"--namespace={NAMESPACE}", "-oname")
    for each in there.split():
        rollout = ("rollout", "status", each, f"--namespace={NAMESPACE}")
        kubectl(*rollout, f"--timeout={_INSTALL_LIMIT_S}s")
