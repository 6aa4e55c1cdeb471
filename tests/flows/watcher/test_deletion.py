"""A Workspace is deleted at any moment: it goes within a minute, and leaves nothing."""

from collections.abc import Callable

import pytest

from tests.flows.watcher.installation import ENDED, Installation, wait_until, workspace_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

KINDS = "jobs,statefulsets,services,configmaps,pods,controllerrevisions"


def wait_for_a_node(installed: Installation, namespace: str) -> None:
    """It asks for a node that nobody has."""
    manifest = workspace_manifest(namespace)
    manifest["resource"]["labelSelector"] = {"matchLabels": {"apps": "nobody"}}
    installed.apply(manifest)
    installed.wait_for(namespace, lambda s: bool(s.get("progress", {}).get("phase")))


def be_at(container: str) -> Callable[[Installation, str], None]:
    def wait(installed: Installation, namespace: str) -> None:
        installed.node.held.add((namespace, container))
        installed.apply(workspace_manifest(namespace))
        installed.wait_until_started(namespace, container)

    return wait


def be_ready(installed: Installation, namespace: str) -> None:
    installed.apply(workspace_manifest(namespace))
    installed.wait_until_ready(namespace)


def lose_the_worker(installed: Installation, namespace: str) -> None:
    """Its worker dies while it tunes, and another is on its way."""
    be_at("tune")(installed, namespace)
    installed.kill("worker")
    installed.start_worker()


MOMENTS: dict[str, Callable[[Installation, str], None]] = {
    "no node": wait_for_a_node,
    "tuning": be_at("tune"),
    "pushing": be_at("push-image"),
    "loading": be_at("serve"),
    "serving": be_ready,
    "no worker": lose_the_worker,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_workspace_that_is_deleted_leaves_nothing(
    installed: Installation, workspace_namespace: str, moment: str
) -> None:
    namespace = workspace_namespace
    installed.node.ending_s = 1  # as pods are there for a while that have been deleted
    MOMENTS[moment](installed, namespace)
    uid = installed.uid(namespace)
    installed.kubectl("delete", "workspace", "tuned", "-n", namespace, "--timeout=60s")
    assert installed.names(KINDS, namespace) == ["configmap/kube-root-ca.crt"]
    wait_until(
        lambda: {run["state_type"] for run in installed.runs(uid)} <= ENDED,
        "an end of all its runs",
    )
