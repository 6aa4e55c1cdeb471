"""An upgrade under living Workspaces: what the first version left goes on, nothing starts anew."""

import json
from typing import Any

import pytest

from tests.flows.watcher.conftest import Installation
from tests.flows.watcher.installation import workspace_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

# What a status of 0.1.0 told; all else has come with later versions.
FORMER_STATUS = {
    *("state", "observedGeneration", "conditions", "progress", "steps", "workerNodes"),
    *("image", "endpoint", "heldOut", "flowRunId"),
}
FORMER_CONDITIONS = {
    *("Accepted", "NodesReady", "ResourceReady", "JobStarted", "InferenceReady"),
    "WorkspaceSucceeded",
}


def leave_as_0_1_0_did(installed: Installation, namespace: str, name: str) -> None:
    """Take away what that version wrote nowhere: later fields, marks of servers, revisions."""
    status = installed.status(namespace, name)
    told = [
        each
        for each in status["conditions"]
        if each["type"] in FORMER_CONDITIONS and each["reason"] not in ("NotYet", "NotAsked")
    ]
    left: dict[str, Any] = dict.fromkeys({*status} - FORMER_STATUS)
    patch = json.dumps({"status": left | {"conditions": told}})
    workspace = ("patch", "workspace", name, "-n", namespace, "--type=merge", "-p", patch)
    installed.kubectl(*workspace, "--subresource=status")
    installed.kubectl("delete", "controllerrevisions", "-n", namespace, "--all")
    mark = "kaitoflow.io/server-digest-"
    installed.kubectl("annotate", "statefulsets", "-n", namespace, "--all", mark)


def identities(installed: Installation, namespace: str) -> dict[str, tuple[str, int]]:
    """Uid and generation of each pod and of what makes pods; an object made anew has others."""
    found = installed.get("pods,jobs,statefulsets", namespace)["items"]
    return {
        f"{each['kind']} {each['metadata']['name']}": (
            each["metadata"]["uid"],
            each["metadata"].get("generation", 0),
        )
        for each in found
    }


def test_an_upgrade_starts_no_pod_anew_and_tunes_nothing_again(
    installed: Installation, workspace_namespace: str
) -> None:
    namespace = workspace_namespace
    installed.apply(workspace_manifest(namespace, "served"))
    installed.wait_until_ready(namespace, name="served")
    installed.node.held.add((namespace, "tune"))
    installed.apply(workspace_manifest(namespace))
    installed.wait_until_started(namespace, "tune", 2)
    before = identities(installed, namespace)

    installed.stop()
    for name in ("served", "tuned"):
        leave_as_0_1_0_did(installed, namespace, name)
    installed.start_worker()
    installed.start("watcher")
    installed.node.held.clear()
    installed.wait_until_ready(namespace)  # by when the other was looked at, too

    after = identities(installed, namespace)
    assert {about: after.get(about) for about in before} == before
    assert {about for about in after if about not in before} == {
        "StatefulSet tuned",
        "Pod tuned-0",
    }
    assert installed.node.started[namespace, "tune"] == 2
    assert installed.status(namespace, "served")["state"] == "Ready"
