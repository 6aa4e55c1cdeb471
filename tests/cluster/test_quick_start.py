"""The quick start on real nodes: the chart, our images, the small model, and nothing made up but
the GPU. One cluster is installed and one Workspace applied; each test looks at one side of it."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from demo.docstrings import write_docstring_dataset
from tasks.presets import find_preset
from tests.builders import tuning_manifest
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, helm
from tests.cluster.cluster import Cluster
from tests.cluster.dns import MACHINE
from tests.cluster.node import claim_gpus
from tests.cluster.registry import docker_config, running_registry
from tests.serving.hub_server import Hub, running_hub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

NAME, TEAM, IMAGE = "workspace-tuning", "team", "adapters/quickstart"
INSTALL_LIMIT_S, RUN_LIMIT_S = 600, 1200
ORDER = ["Accepted", "NodesReady", "ResourceReady", "JobStarted", "InferenceReady"]
# The database's volume: the cluster has nobody who makes one.
VOLUME = """
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


@dataclass
class QuickStart:
    """A cluster on which Kaitoflow is installed, and where a Workspace's things are."""

    cluster: Cluster
    registry: str
    dataset: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.control_plane.kubectl(*arguments, stdin=stdin)

    def in_team(self, *arguments: str, stdin: str | None = None) -> str:
        return self.kubectl(*arguments, f"--namespace={TEAM}", stdin=stdin)

    def workspace(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.in_team("get", "workspace", NAME, "--output=json"))
        return found


@dataclass
class Served:
    """What was seen of the Workspace until it was served."""

    start: QuickStart
    turned_true: list[str]
    table: list[str]
    services: list[str]
    status: dict[str, Any]
    digest_by_skopeo: str
    models: set[str]
    answer: str
    compiler: str


@pytest.fixture(scope="module")
def quick_start(
    cluster: Cluster,
    product_images: dict[str, str],
    smollm2_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[QuickStart]:
    """Kaitoflow installed by its chart; weights, dataset and registry are on this machine."""
    folder = tmp_path_factory.mktemp("quick-start")
    write_docstring_dataset(folder / "rows.parquet", rows=160, seed=0)
    files = {path.name: path.read_bytes() for path in smollm2_weights.iterdir() if path.is_file()}
    with ExitStack() as running:
        pinned = [find_preset("smollm2-135m-instruct").revision]
        hub = running.enter_context(running_hub(Hub(files=files, commits=pinned)))
        web = running.enter_context(served(folder))
        registry = running.enter_context(running_registry(folder / "registry", auth=True))
        host = cluster.trust_registry(registry)
        port = cluster.expose(web).rpartition(":")[2]
        start = QuickStart(cluster, host, f"http://{MACHINE}:{port}/rows.parquet")
        hub_host = cluster.expose(hub.url.removeprefix("http://"))
        install(start, product_images, values_of(host, hub_host))
        yield start


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """HOST:PORT on loopback at which the folder's files are."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_: object) -> None:
            """Keep the tests' output free of requests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def values_of(registry: str, hub: str) -> dict[str, Any]:
    """The chart's values but its images: what is local here is remote elsewhere."""
    return {
        "namespaces": [TEAM],
        "pods": {
            # The node only says that it has a GPU.
            "environment": {"HF_ENDPOINT": f"http://{hub}", "KAITOFLOW_DEVICE": "cpu"},
            "insecureRegistries": [registry],
            "allowLocalAddresses": True,
        },
    }


def install(start: QuickStart, images: dict[str, str], values: dict[str, Any]) -> None:
    """Install the chart and wait until all of it runs."""
    node = next(node for node in start.cluster.nodes if node.plan.name == "cpu")
    node.enclosure.run("mkdir", "--parents", "/var/lib/database")
    start.kubectl("apply", "--filename=-", stdin=VOLUME)
    for namespace in (NAMESPACE, TEAM):
        start.kubectl("create", "namespace", namespace)
    named = {name: image.rsplit(":", 1) for name, image in images.items()}
    chosen = {name: {"repository": repo, "tag": tag} for name, (repo, tag) in named.items()}
    helm(
        *("upgrade", RELEASE, CHART, "--install", f"--namespace={NAMESPACE}", "--values=-"),
        stdin=json.dumps(values | {"image": chosen}),
        kubeconfig=start.cluster.control_plane.kubeconfig,
    )
    there = start.kubectl("get", "statefulsets,deployments", f"--namespace={NAMESPACE}", "-oname")
    for each in there.split():
        rollout = ("rollout", "status", each, f"--namespace={NAMESPACE}")
        start.kubectl(*rollout, f"--timeout={INSTALL_LIMIT_S}s")


@pytest.fixture(scope="module")
def workspace(quick_start: QuickStart, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The quick start's Workspace with its placeholders filled in, applied and served."""
    start, folder = quick_start, tmp_path_factory.mktemp("skopeo")
    start.kubectl("label", "node", "gpu", "app=tuning", "--overwrite")
    login = f"--from-literal=.dockerconfigjson={docker_config(start.registry)}"
    kind = "--type=kubernetes.io/dockerconfigjson"
    start.in_team("create", "secret", "generic", "push", kind, login)
    manifest = tuning_manifest(
        NAME,
        input={"urls": [start.dataset]},
        output={"image": f"{start.registry}/{IMAGE}:0.0.1", "imagePushSecret": "push"},
    )
    manifest["apiVersion"] = "kaito.sh/v1alpha1"
    manifest["resource"]["labelSelector"] = {"matchLabels": {"app": "tuning"}}
    start.in_team("apply", "--filename=-", stdin=yaml.safe_dump(manifest))
    turned_true: list[str] = []

    def is_over() -> bool:
        status = start.workspace().get("status", {})
        for each in status.get("conditions", []):
            if each["status"] == "True" and each["type"] not in turned_true:
                turned_true.append(each["type"])
        return status.get("state") in {"Ready", "Failed"}

    eventually(is_over, limit_s=RUN_LIMIT_S, otherwise=lambda: report(start))
    status = start.workspace()["status"]
    assert status["state"] == "Ready", report(start)
    models, answer = talk(start)
    return Served(
        start,
        turned_true,
        table=start.in_team("get", "workspace").splitlines(),
        services=start.in_team("get", "svc").splitlines(),
        status=status,
        digest_by_skopeo=inspect(start, status["image"]["reference"], folder=folder),
        models=models,
        answer=answer,
        compiler=start.kubectl(
            *("exec", f"--namespace={TEAM}", f"statefulset/{NAME}", "--", "gcc", "--version")
        ),
    )


def talk(start: QuickStart) -> tuple[set[str], str]:
    """Which models the Service's cluster address has, and what the tuned one answers there."""
    address = start.in_team("get", "service", NAME, "--output=jsonpath={.spec.clusterIP}")
    url = f"http://{start.cluster.reach(f'{address}:80')}"
    asked = {"prompt": "What does os.path.join do?"}
    with httpx2.Client(trust_env=False, timeout=120) as client:
        models = client.get(f"{url}/v1/models").raise_for_status().json()["data"]
        answer = client.post(f"{url}/chat", json=asked).raise_for_status().json()
    return {model["id"] for model in models}, answer["Result"]


def inspect(start: QuickStart, image: str, *, folder: Path) -> str:
    """The digest that skopeo reads from the registry, which is on loopback for this machine."""
    here = f"127.0.0.1:{start.registry.rpartition(':')[2]}"
    login = folder / "config.json"
    login.write_text(docker_config(here))
    options = ("--tls-verify=false", f"--authfile={login}", "--format={{.Digest}}")
    command = ["skopeo", "inspect", *options, f"docker://{here}/{image.partition('/')[2]}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def eventually(is_so: Callable[[], bool], *, limit_s: float, otherwise: Callable[[], str]) -> None:
    """Return once it is so."""
    deadline_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline_s, otherwise()
        time.sleep(1)


def report(start: QuickStart) -> str:
    """What a person would look at when it does not go on."""
    pods = start.in_team("describe", "pods")
    return f"{json.dumps(start.workspace()['status'], indent=1)}\n{pods[-6000:]}"


def test_its_conditions_turn_true_one_after_the_other(workspace: Served) -> None:
    assert [each for each in workspace.turned_true if each in ORDER] == ORDER
    assert "WorkspaceSucceeded" in workspace.turned_true


def test_kubectl_prints_the_documented_tables(workspace: Served) -> None:
    assert workspace.table[0].split() == [
        *("NAME", "INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"),
    ]
    assert workspace.table[1].split()[:5] == [NAME, "Standard_NC4as_T4_v3", "True", "True", "True"]
    [line] = [line.split() for line in workspace.services if line.split()[0] == NAME]
    assert (line[1], line[4]) == ("ClusterIP", "80/TCP,29500/TCP")


def test_tuning_lowered_the_loss_on_held_out_answers(workspace: Served) -> None:
    held_out = workspace.status["heldOut"]
    assert held_out["lossAfter"] < held_out["lossBefore"]


def test_another_tool_finds_the_image_in_the_registry(workspace: Served) -> None:
    assert workspace.digest_by_skopeo == workspace.status["image"]["digest"]


def test_the_tuned_model_answers_at_the_service_s_address(workspace: Served) -> None:
    assert NAME in workspace.models
    assert len(workspace.answer.split()) > 3


def test_a_pod_has_the_compiler_that_kernels_for_gpus_need(workspace: Served) -> None:
    assert workspace.compiler.startswith("gcc")


@dataclass(frozen=True)
class Edited:
    """What was seen while the served Workspace was edited, and the edit was refused."""

    served: Served
    answers: list[int]
    while_refused: dict[str, tuple[str, int]]


@pytest.fixture(scope="module")
def refused_edit(workspace: Served) -> Edited:
    """An edit that names a ConfigMap that is not there, taken back while a client goes on."""
    start = workspace.start
    with chatting(start) as answers:
        wait_for(start, lambda: len(answers) > 2)
        edit(start, "is-not-there")
        wait_for(start, lambda: conditions(start)["Accepted"] == ("False", 2))
        while_refused = conditions(start)
        edit(start, None)
        wait_for(start, lambda: conditions(start)["Accepted"] == ("True", 3))
        enough = len(answers) + 3
        wait_for(start, lambda: len(answers) >= enough)
    return Edited(workspace, answers, while_refused)


@dataclass(frozen=True)
class Recovered:
    """What was seen after the served Workspace's node was lost."""

    start: QuickStart
    while_lost: dict[str, tuple[str, int]]
    models: set[str]
    answer: str


@pytest.fixture(scope="module")
def node_lost(refused_edit: Edited) -> Recovered:
    """The node on which the model was served is gone, and another one has its label."""
    start = refused_edit.served.start
    gpu = next(node for node in start.cluster.nodes if node.plan.name == "gpu")
    for program in (gpu.kubelet, gpu.containerd):
        program.kill()
    start.kubectl("delete", "node", "gpu")  # as a cloud does, whose machine is gone
    wait_for(start, lambda: conditions(start)["ResourceReady"][0] == "False")
    while_lost = conditions(start)
    claim_gpus("cpu", 1, start.cluster.control_plane)
    start.kubectl("label", "node", "cpu", "app=tuning", "--overwrite")
    wait_for(start, lambda: is_served_on(start, "cpu"), limit_s=RUN_LIMIT_S)
    return Recovered(start, while_lost, *talk(start))


@pytest.fixture(scope="module")
def left(node_lost: Recovered) -> list[str]:
    """What there is once the Workspace was deleted, as kind/name."""
    start = node_lost.start
    start.in_team("delete", "workspace", NAME, "--timeout=120s")
    kinds = "jobs,statefulsets,services,configmaps,pods,controllerrevisions,secrets"
    return start.in_team("get", kinds, "--output=name").split()


def test_clients_notice_nothing_of_an_edit_that_is_refused(refused_edit: Edited) -> None:
    assert set(refused_edit.answers) == {200}


def test_what_served_before_a_refused_edit_is_shown_as_served(refused_edit: Edited) -> None:
    assert refused_edit.while_refused["InferenceReady"] == ("True", 1)


def test_a_served_model_answers_again_after_its_node_was_lost(node_lost: Recovered) -> None:
    assert NAME in node_lost.models
    assert len(node_lost.answer.split()) > 3


def test_a_lost_node_is_told_at_once(node_lost: Recovered) -> None:
    assert node_lost.while_lost["ResourceReady"][0] == "False"
    assert node_lost.while_lost["InferenceReady"][0] == "False"


def test_deleting_it_leaves_nothing_but_what_is_the_user_s(left: list[str]) -> None:
    assert sorted(left) == ["configmap/kube-root-ca.crt", "secret/push"]


@contextmanager
def chatting(start: QuickStart) -> Iterator[list[int]]:
    """A client that asks all the time; HTTP's status of each answer so far, 0 for none."""
    address = start.in_team("get", "service", NAME, "--output=jsonpath={.spec.clusterIP}")
    url = f"http://{start.cluster.reach(f'{address}:80')}/v1/chat/completions"
    messages = [{"role": "user", "content": "What does os.path.join do?"}]
    answers: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                asked = {"messages": messages, "max_tokens": 4}
                answers.append(
                    httpx2.post(url, json=asked, timeout=60, trust_env=False).status_code
                )
            except httpx2.HTTPError:
                answers.append(0)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers
    finally:
        is_over.set()
        asking.join()


def edit(start: QuickStart, config: str | None) -> None:
    """Have the Workspace name another ConfigMap with its training's settings, or none."""
    patch = json.dumps({"tuning": {"config": config}})
    start.in_team("patch", "workspace", NAME, "--type=merge", f"--patch={patch}")


def conditions(start: QuickStart) -> dict[str, tuple[str, int]]:
    """How each condition stands, and of which generation."""
    found = start.workspace()["status"]["conditions"]
    return {each["type"]: (each["status"], each["observedGeneration"]) for each in found}


def is_served_on(start: QuickStart, node: str) -> bool:
    """Whether the Workspace is Ready, and has its pods on this node only."""
    pods = json.loads(start.in_team("get", "pods", "--output=json"))["items"]
    nodes = {pod["spec"].get("nodeName") for pod in pods}
    return start.workspace()["status"]["state"] == "Ready" and nodes == {node}


def wait_for(start: QuickStart, is_so: Callable[[], bool], *, limit_s: float = 120) -> None:
    """Return once it is so; what a person would look at, when it is not."""
    eventually(is_so, limit_s=limit_s, otherwise=lambda: report(start))
