"""A candidate on a cluster answers a share of the requests, and takes the name or is out again."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tasks.contract.artifacts import PublishedImage
from tasks.contract.programs.image import PushConfig
from tasks.contract.programs.serving import AdapterSource, ServerConfig
from tasks.image.pod.push import push_image
from tests.cluster.control_plane import ControlPlane
from tests.cluster.simulated_node import PUSHED, Script
from tests.flows.watcher.conftest import Installation, installation
from tests.flows.watcher.test_retuning_on_a_cluster import (
    annotate,
    fates,
    measured,
    new_data,
    prefect_home,
    pulled_by_the_server,
    retune,
    served,
    told,
)
from tests.serving import toy
from tests.serving.hot import break_weights, load, names
from tests.serving.running import Running, serve

__all__ = ["prefect_home"]  # a fixture
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

REPOSITORY = "registry.example.com/adapters/tuned"
BETTER = measured(2.0, 2.3)
TRIED = "1m"  # in which twenty requests reach the candidate also on a machine that others use


@dataclass(frozen=True)
class Serving:
    """A server of this machine, in the place of every Workspace's, and the images it finds."""

    server: Running
    images: list[PublishedImage]
    """Of the adapters 1 to 3."""


@pytest.fixture  # of each try's own: a test that is run again needs the name where it began
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("served")
    model = toy.make_model(folder / "model")
    images = []
    for number in (1, 2, 3):
        made = push_image(
            PushConfig(
                adapter_dir=toy.make_adapter(folder / str(number), model, seed=number),
                reference=f"{REPOSITORY}:1-g{number}",
                layout_dir=folder / "images",
            )
        )
        images.append(PublishedImage(reference=made.reference, digest=made.digest))
    key_file = folder / "key"
    key_file.write_text("open-sesame")
    config = ServerConfig(
        weights_dir=model,
        served_model_name="toy",
        adapters=(AdapterSource("tuned", folder / "1"),),
        default_model="tuned",
        admin_key_file=key_file,
        adapters_dir=folder / "adapters",
        images_dir=folder / "images",
        max_concurrency=4,
    )
    with serve(config) as server:
        yield Serving(server, images)


@pytest.fixture
def installed(
    control_plane: ControlPlane,  # builds the programs, or skips
    prefect_home: str,
    serving: Serving,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("kaitoflow"), prefect_home) as made:
        made.module = "tests.flows.watcher.worker_beside_a_server"
        made.settings["SERVER_URL"] = serving.server.url
        made.start_worker()
        made.start("watcher")
        yield made


@pytest.fixture
def namespace(installed: Installation, serving: Serving, workspace_namespace: str) -> str:
    """One whose Workspace is served, with a key by which its server takes adapters."""
    first = PUSHED | {"reference": serving.images[0].reference, "digest": serving.images[0].digest}
    installed.node.scripts["push-image"] = Script((first,))
    served(installed, workspace_namespace)
    installed.kubectl(
        *("create", "secret", "generic", "tuned-admin-key", "-n", workspace_namespace),
        "--from-literal=key=open-sesame",
    )
    annotate(
        installed,
        workspace_namespace,
        "kaitoflow.io/promotion=canary",
        f"kaitoflow.io/canary=80% for {TRIED}",
    )
    return workspace_namespace


@dataclass
class Clients:
    """What a server answers to who asks it for as long as it takes, by who answered."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: int = 0


@contextmanager
def asking(server: Running) -> Iterator[Clients]:
    """Clients that ask for the Workspace's model for as long as the context lasts."""
    clients, is_over = Clients(), threading.Event()

    def ask() -> None:
        while not is_over.wait(0.1):  # hundreds of times in all, and other tests need the cores
            answer = server.chat("the cat", model="tuned", max_tokens=1)
            if answer.status_code == 200:
                clients.answered[answer.headers["x-kaitoflow-generation"]] += 1
            else:
                clients.failed += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def candidate(installed: Installation, serving: Serving, number: int) -> str:
    """Have the next candidate be the image of this number; its digest."""
    image = serving.images[number - 1]
    new_data(installed, f"sha256:{number}", image.digest, BETTER)
    pushed = PUSHED | {"reference": image.reference, "digest": image.digest}
    installed.node.scripts["push-image"] = Script((pushed,))
    return image.digest


def pod(installed: Installation, namespace: str) -> str:
    return str(installed.get("pod", namespace, "tuned-0")["metadata"]["uid"])


def test_one_that_passes_takes_the_name_and_one_that_fails_is_out_while_the_same_pod_serves(
    installed: Installation, serving: Serving, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, first_pod = serving.server, pod(installed, namespace)
    second = candidate(installed, serving, 2)
    with asking(server) as clients:
        retune(installed, namespace)
        status = told(installed, namespace, "promoted: ")
    assert (clients.failed, {*clients.answered}) == (0, {"tuned", "tuned@2"})
    assert (status["image"]["digest"], fates(status)) == (second, ["served", "serving"])
    assert "canary on 80 % of the requests for 1 min: " in status["adapters"]["told"]
    assert "the server moved its name while it served" in status["adapters"]["told"]
    assert pod(installed, namespace) == first_pod
    assert pulled_by_the_server(installed, namespace).endswith(second)  # once it is made anew

    third = candidate(installed, serving, 3)
    load(server, "tuned@3", f"{serving.images[2].reference}@{third}")
    break_weights(server, "tuned@3", monkeypatch)
    with asking(server) as clients:
        retune(installed, namespace)
        status = told(installed, namespace, "kept out tuned@3: ")
    assert clients.answered.keys() == {"tuned@2"}
    assert clients.failed > 0
    assert (status["image"]["digest"], fates(status)) == (second, ["served", "serving", "kept out"])
    assert "answers of tuned@3 failed, 0 of " in status["adapters"]["told"]
    assert pod(installed, namespace) == first_pod
    assert installed.names("jobs", namespace) == ["job.batch/tuned-tune-1"]
    assert "tuned@3" not in names(server)
