"""The quick start where nodes are made: its claim becomes a node, and goes with the Workspace."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.flows.watcher.clouds import Cloud, claiming_installation, wanting
from tests.flows.watcher.conftest import new_namespace
from tests.flows.watcher.installation import ALL, Installation, true_conditions, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def claiming(
    control_plane: object,  # builds the programs, or skips
    crowded_prefect: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """Kaitoflow installed with provisioner karpenter."""
    folder = tmp_path_factory.mktemp("claiming")
    with claiming_installation(folder, crowded_prefect, provisioner="karpenter") as made:
        made.start_worker()
        made.start("watcher")
        yield made


@pytest.fixture
def cloud(claiming: Installation) -> Iterator[Cloud]:
    """Its nodes go with the test."""
    with ExitStack() as running:
        yield Cloud(claiming, running)


def test_a_workspace_claims_its_node_is_served_on_it_and_gives_it_back(
    claiming: Installation, cloud: Cloud
) -> None:
    namespace = new_namespace(claiming)
    claiming.apply(wanting(namespace))
    [claim] = wait_until(cloud.claims, "a claim")
    labels = claim["metadata"]["labels"]
    assert labels["kaito.sh/workspace"] == "tuned"
    waiting = claiming.wait_for(namespace, lambda s: s.get("reason") == "NodeClaimNotReady")
    assert "NodeClaimReady" not in true_conditions(waiting)
    assert waiting["targetNodeCount"] == 1
    assert claiming.names("jobs", namespace) == []
    cloud.fulfil(claim)
    status = claiming.wait_until_ready(namespace)
    assert true_conditions(status) == {*ALL, "NodeClaimReady"}
    assert status["workerNodes"] == [f"node-{claim['metadata']['name']}"]
    claiming.kubectl("delete", "workspace", "tuned", "-n", namespace, "--timeout=180s")
    assert cloud.claims() == []


def test_a_workspace_that_only_tunes_gives_its_node_back_at_the_end(
    claiming: Installation, cloud: Cloud
) -> None:
    namespace = new_namespace(claiming)
    claiming.apply(wanting(namespace, **{"kaito.sh/serve": "false"}))
    [claim] = wait_until(cloud.claims, "a claim")
    cloud.fulfil(claim)
    status = claiming.wait_for(namespace, lambda s: s.get("state") == "Succeeded")
    [machine] = status["cost"]["machines"]
    assert machine["since"] < machine["until"]
    wait_until(lambda: not cloud.claims(), "the claim to be gone")
    claiming.kubectl("delete", "workspace", "tuned", "-n", namespace, "--timeout=180s")


def test_a_workspace_that_is_deleted_while_it_waits_leaves_no_claim(
    claiming: Installation, cloud: Cloud
) -> None:
    namespace = new_namespace(claiming)
    claiming.apply(wanting(namespace))
    wait_until(cloud.claims, "a claim")
    claiming.kubectl("delete", "workspace", "tuned", "-n", namespace, "--timeout=180s")
    assert cloud.claims() == []
