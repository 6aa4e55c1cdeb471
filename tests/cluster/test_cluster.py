import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.cluster import images
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.e2e

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {{matchLabels: {{app: web}}}}
      containers:
      - name: web
        image: {image}
        command: [python3, -m, http.server, "8000"]
        readinessProbe: {{httpGet: {{path: /etc/hostname, port: 8000}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8000}}]
"""
ASK_THE_API = """
import ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
token = open(f"{folder}/token").read()
asked = urllib.request.Request(
    "https://10.96.0.1/version", headers={"Authorization": f"Bearer {token}"}
)
trusted = ssl.create_default_context(cafile=f"{folder}/ca.crt")
print(urllib.request.urlopen(asked, context=trusted).read().decode())
"""


def run_pod(
    cluster: Cluster, namespace: str, *command: str, limits: str = "", name: str = "once"
) -> str:
    """What `command` prints in a pod of the base image."""
    spec = {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "it",
                "image": cluster.image(images.base()),
                "command": command,
                "resources": {"limits": json.loads(limits or "{}")},
            }
        ],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    kubectl = cluster.control_plane.kubectl
    kubectl("create", "--namespace", namespace, "--filename=-", stdin=json.dumps(pod))
    done = "--for=jsonpath={.status.phase}=Succeeded"
    kubectl("wait", "pod", name, "--namespace", namespace, done, "--timeout=90s")
    return kubectl("logs", name, "--namespace", namespace)


@pytest.fixture
def web(cluster: Cluster, cluster_namespace: str) -> str:
    """The Service's HOST:PORT inside; a pod on each node answers."""
    kubectl = cluster.control_plane.kubectl
    manifest = WEB.format(image=cluster.image(images.base()))
    kubectl("create", "--namespace", cluster_namespace, "--filename=-", stdin=manifest)
    kubectl("rollout", "status", "deployment/web", "-n", cluster_namespace, "--timeout=100s")
    address = "--output=jsonpath={.spec.clusterIP}"
    return f"{kubectl('get', 'service', 'web', '-n', cluster_namespace, address)}:80"


@pytest.fixture
def served_here() -> Iterator[str]:
    """HOST:PORT of an HTTP server on this machine's loopback."""
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_service_answers_at_its_cluster_address_from_every_pod_behind_it(
    cluster: Cluster, web: str
) -> None:
    url = f"http://{cluster.reach(web)}/etc/hostname"
    answers: set[str] = set()
    deadline_s = time.monotonic() + 60
    with httpx2.Client(trust_env=False) as client:
        while len(answers) < 2 and time.monotonic() < deadline_s:
            with contextlib.suppress(httpx2.TransportError):  # a node's proxy hears a moment later
                answer = client.get(url, headers={"Connection": "close"})
                answers.add(answer.raise_for_status().text)
    assert len(answers) == 2


def test_kubectl_runs_a_command_in_a_pod(
    cluster: Cluster, web: str, cluster_namespace: str
) -> None:
    said = cluster.control_plane.kubectl(
        "exec", "deployment/web", "--namespace", cluster_namespace, "--", "python3", "--version"
    )
    assert said.startswith("Python 3")


def test_a_pod_speaks_to_the_api_server_with_its_own_token(
    cluster: Cluster, cluster_namespace: str
) -> None:
    said = run_pod(cluster, cluster_namespace, "python3", "-c", ASK_THE_API)
    assert json.loads(said)["gitVersion"].startswith("v1.36.")


def test_a_pod_reaches_what_a_test_serves(
    cluster: Cluster, cluster_namespace: str, served_here: str
) -> None:
    url = f"http://{cluster.expose(served_here)}/pyproject.toml"
    fetch = f"import urllib.request; print(urllib.request.urlopen('{url}').read().decode())"
    said = run_pod(cluster, cluster_namespace, "python3", "-c", fetch)
    assert 'name = "kaitoflow"' in said


def test_a_pod_that_asks_for_a_gpu_gets_the_gpu_node(
    cluster: Cluster, cluster_namespace: str
) -> None:
    run_pod(cluster, cluster_namespace, "python3", "-V", limits='{"nvidia.com/gpu": "1"}')
    path = "--output=jsonpath={.spec.nodeName}"
    kubectl = cluster.control_plane.kubectl
    assert kubectl("get", "pod", "once", "--namespace", cluster_namespace, path) == "gpu"


def test_the_machine_itself_sees_none_of_it(cluster: Cluster) -> None:
    addresses = psutil.net_if_addrs().values()
    assert not any(each.address.startswith("10.200.") for of in addresses for each in of)
    assert "containerd" not in Path("/proc/self/mountinfo").read_text()


def test_nothing_runs_on_when_the_tests_are_killed(tmp_path: Path, cluster: Cluster) -> None:
    folder = tmp_path / "cluster"
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.cluster", folder],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    with holder.stdout as said:
        assert said.readline().startswith("export KUBECONFIG=")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    deadline_s = time.monotonic() + 30
    while _uses(folder) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert _uses(folder) == []


def _uses(folder: Path) -> list[str]:
    commands = (
        " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    )
    return [command for command in commands if str(folder) in command]
