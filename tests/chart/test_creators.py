"""Who creates a Workspace gets no more from its pods than is theirs."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.builders import tuning_manifest
from tests.chart.conftest import Installation
from tests.chart.rendering import CRDS

pytestmark = pytest.mark.cluster

Object = dict[str, Any]
Create = Callable[[Object], str]
VOLUME = {"volumeSource": {"persistentVolumeClaim": {"claimName": "kept"}}}
TEMPLATE = {"template": {"spec": {"containers": [{"name": "own", "image": "example.com/own"}]}}}


GATED = {"name": "phi-4", "presetOptions": {"modelAccessSecret": "other"}}
ADAPTER = {"source": {"name": "a", "image": "r.io/a:1", "imagePullSecrets": ["push", "other"]}}


def inference(**content: Any) -> Object:
    manifest = tuning_manifest()
    del manifest["tuning"]
    selector = {"labelSelector": {"matchLabels": {"apps": "own"}}}
    return manifest | {"inference": content, "resource": selector}


def several(**content: Any) -> Object:
    """An InferenceSet of such Workspaces."""
    template = {key: inference(**content)[key] for key in ("inference", "resource")}
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "InferenceSet",
        "metadata": {"name": "several"},
        "spec": {"template": template},
    }


def judged(url: str = "https://judge.example.com/v1") -> Object:
    """A Workspace whose judge would get what is in Secret `tuned-judge-key`."""
    manifest = tuning_manifest()
    annotations = {"kaitoflow.io/gate": "judge", "kaitoflow.io/judge": f"{url} strict-7b"}
    return manifest | {"metadata": manifest["metadata"] | {"annotations": annotations}}


def commanded() -> Object:
    """A Workspace whose candidates are scored in an image of its creator's own."""
    manifest = tuning_manifest()
    command = "ghcr.io/example/score:1 python /score.py"
    annotations = {"kaitoflow.io/gate": "command", "kaitoflow.io/gate-command": command}
    return manifest | {"metadata": manifest["metadata"] | {"annotations": annotations}}


@pytest.fixture
def create(installation: Installation) -> Create:
    """Creates Workspaces as a person who may do that, read Secret `push`, and nothing else."""
    kubernetes, here = installation.control_plane, f"--namespace={installation.workspaces}"
    for plural in ("workspaces", "inferencesets"):
        kubernetes.define(f"{plural}.kaito.sh", (CRDS / f"kaito.sh_{plural}.yaml").read_text())
    installation.install()
    rules = {
        "objects": (
            "--verb=create,get,update,patch",
            "--resource=workspaces.kaito.sh,inferencesets.kaito.sh",
        ),
        "push": ("--verb=get", "--resource=secrets", "--resource-name=push"),
    }
    for name, rule in rules.items():
        kubernetes.kubectl("create", "role", name, *rule, here)
        bind = ("create", "rolebinding", name, f"--role={name}", "--user=a-person")
        kubernetes.kubectl(*bind, here)

    def create(manifest: Object) -> str:
        """What kubectl says; nothing is kept."""
        told = ("create", "--filename=-", "--dry-run=server", "--as=a-person", here)
        try:
            return kubernetes.kubectl(*told, stdin=json.dumps(manifest))
        except RuntimeError as refused:
            return str(refused)

    deadline_s = time.monotonic() + 60  # a policy is in force a little after it was made
    while "may not create pods" not in create(inference(**TEMPLATE)):
        assert time.monotonic() < deadline_s, create(inference(**TEMPLATE))
        time.sleep(0.5)
    return create


def test_what_a_creator_may_not_use_a_workspace_may_not_either(
    installation: Installation, create: Create
) -> None:
    assert "created" in create(tuning_manifest())
    assert "created" in create(several(preset={"name": "phi-4"}))
    refused = {
        "may not create pods": [
            inference(**TEMPLATE),
            several(**TEMPLATE),
            tuning_manifest(input=VOLUME),
            tuning_manifest(output=VOLUME),
            commanded(),
        ],
        "Secret other was named": [
            tuning_manifest(output={"image": "r.io/a:1", "imagePushSecret": "other"}),
            tuning_manifest(input={"image": "r.io/d:1", "imagePullSecrets": ["push", "other"]}),
            inference(preset=GATED),
            several(preset=GATED),
            several(preset={"name": "phi-4"}, adapters=[ADAPTER]),
        ],
        "Secret tuned-judge-key was named": [judged()],
    }
    for words, manifests in refused.items():
        for manifest in manifests:
            assert words in create(manifest)
    kubernetes, here = installation.control_plane, f"--namespace={installation.workspaces}"
    bind = ("create", "rolebinding", "edit", "--clusterrole=edit", "--user=a-person")
    kubernetes.kubectl(*bind, here)
    for manifest in (manifest for manifests in refused.values() for manifest in manifests):
        assert "created" in create(manifest)


@pytest.mark.usefixtures("create")
def test_who_writes_what_is_there_already_asks_for_nothing_new(
    installation: Installation,
) -> None:
    kubernetes, here = installation.control_plane, f"--namespace={installation.workspaces}"
    manifest = json.dumps(inference(**TEMPLATE))
    kubernetes.kubectl("create", "--filename=-", here, stdin=manifest)
    note = ("annotate", "workspace", "tuned", "kaitoflow.io/stopped=1", "--as=a-person")
    assert "annotated" in kubernetes.kubectl(*note, here)
    judge = ("annotate", "workspace", "tuned", "kaitoflow.io/judge=https://mine.example.com m")
    with pytest.raises(RuntimeError, match="may not create pods|tuned-judge-key was named"):
        kubernetes.kubectl(*judge, "--as=a-person", here)
    command = ("annotate", "workspace", "tuned", "kaitoflow.io/gate-command=example.com/own sh")
    with pytest.raises(RuntimeError, match="may not create pods"):
        kubernetes.kubectl(*command, "--as=a-person", here)
    more = '{"inference": {"template": {"spec": {"hostNetwork": true}}}}'
    change = ("patch", "workspace", "tuned", "--type=merge", f"--patch={more}", "--as=a-person")
    with pytest.raises(RuntimeError, match="may not create pods"):
        kubernetes.kubectl(*change, here)


@pytest.mark.usefixtures("create")
def test_the_watcher_makes_what_the_creator_of_a_set_may_have(installation: Installation) -> None:
    kubernetes, here = installation.control_plane, f"--namespace={installation.workspaces}"
    watcher = f"--as=system:serviceaccount:{installation.namespace}:kaitoflow-watcher"
    told = ("create", "--filename=-", "--dry-run=server", watcher, here)
    alone = inference(preset=GATED)
    with pytest.raises(RuntimeError, match="Secret other was named"):
        kubernetes.kubectl(*told, stdin=json.dumps(alone))
    of_a_set = {"labels": {"inferenceset.kaito.sh/created-by": "several"}}
    member = alone | {"metadata": alone["metadata"] | of_a_set}
    assert "created" in kubernetes.kubectl(*told, stdin=json.dumps(member))


@pytest.mark.usefixtures("create")
def test_who_scales_a_set_asks_for_nothing_new(installation: Installation) -> None:
    kubernetes, here = installation.control_plane, f"--namespace={installation.workspaces}"
    kubernetes.kubectl("create", "--filename=-", here, stdin=json.dumps(several(preset=GATED)))
    change = ("patch", "inferenceset", "several", "--type=merge", "--as=a-person", here)
    assert "patched" in kubernetes.kubectl(*change, '--patch={"spec": {"replicas": 3}}')
    other = '{"spec": {"template": {"inference": {"preset": {"name": "phi-4-mini-instruct"}}}}}'
    with pytest.raises(RuntimeError, match="Secret other was named"):
        kubernetes.kubectl(*change, f"--patch={other}")


def as_the_worker(installation: Installation, *arguments: str, stdin: str | None = None) -> str:
    """What kubectl says to the worker's account."""
    who = f"--as=system:serviceaccount:{installation.namespace}:kaitoflow-worker"
    here = f"--namespace={installation.workspaces}"
    try:
        return installation.control_plane.kubectl(*arguments, who, here, stdin=stdin)
    except RuntimeError as refused:
        return str(refused)


@pytest.mark.usefixtures("create")
def test_who_starts_a_workspace_from_a_form_brings_no_pod_of_their_own(
    installation: Installation,
) -> None:
    """Prefect's form is the worker's, and nobody knows whose its pods would be."""
    told = ("create", "--filename=-", "--dry-run=server")
    manifest = json.dumps(inference(**TEMPLATE))
    assert "may not create pods" in as_the_worker(installation, *told, stdin=manifest)


@pytest.mark.usefixtures("create")
def test_the_worker_makes_pods_in_dry_runs_alone(installation: Installation) -> None:
    kubernetes, here = installation.control_plane, f"--namespace={installation.workspaces}"
    kubernetes.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s", here)
    run = ("run", "own", "--image=example.com/own")
    deadline_s = time.monotonic() + 60  # a policy is in force a little after it was made
    while "in dry runs alone" not in (said := as_the_worker(installation, *run)):
        assert time.monotonic() < deadline_s, said
        kubernetes.kubectl("delete", "pod", "own", "--now", "--ignore-not-found", here)
    assert "created" in as_the_worker(installation, *run, "--dry-run=server")
    assert kubernetes.kubectl("get", "pods", "--output=name", here) == ""
