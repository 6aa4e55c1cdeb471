"""What `kubectl get workspace` prints, and a status that is kept as it was written."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.view import describe_progress
from tasks.contract.artifacts import Endpoint, PublishedImage
from tasks.contract.programs.tuning import HeldOut, Sample
from tasks.contract.status import (
    AdapterRun,
    ConditionType,
    FinishedStep,
    Progress,
    State,
    WorkspaceStatus,
)
from tasks.contract.units import utc_text
from tests.cluster.control_plane import ControlPlane
from tests.crd.samples import manifest

pytestmark = pytest.mark.cluster

DEFAULT = "NAME INSTANCE RESOURCEREADY INFERENCEREADY WORKSPACEREADY AGE"
WIDE = (
    "NAME INSTANCE RESOURCEREADY INFERENCEREADY WORKSPACEREADY JOBSTARTED WORKSPACESUCCEEDED "
    "STATE PROGRESS REASON RETUNED TARGETNODECOUNT AGE"
)
THEN = datetime(2026, 1, 1, tzinfo=UTC)
MACHINE = "Standard_NC24ads_A100_v4"

Apply = Callable[[dict[str, Any]], dict[str, Any]]
Read = Callable[..., dict[str, Any]]


def tuning_status() -> WorkspaceStatus:
    """A status with every field set, in the middle of training."""
    status = WorkspaceStatus(
        state=State.RUNNING,
        observed_generation=1,
        attempt=2,
        progress=Progress(
            step_name="tune", step=3, steps=10, loss=1.5, tokens_per_s=70.25, eta_s=90, memory_gib=2
        ),
        steps=[FinishedStep(name="download", seconds=1.5, detail="10 rows")],
        worker_nodes=["node-1"],
        target_node_count=1,
        image=PublishedImage(reference="r/a:1", digest="sha256:1", layout_dir=Path("/a"), bytes=9),
        endpoint=Endpoint(url="http://tuned.default", model="tuned"),
        held_out=HeldOut(
            rows=3,
            loss_before=2.5,
            loss_after=1.5,
            sample=Sample(question="?", before="!", after="."),
        ),
        flow_run_id="0123",
        adapter_run=AdapterRun(flow="retune-workspace", flow_run_id="4567", since=utc_text(THEN)),
    )
    status.remember_image("sha256:1", now=THEN)
    status.adapters.tell("skipped: the data has the same ETag", THEN)
    status.set_condition(ConditionType.ACCEPTED, status="True", reason="Accepted", now=THEN)
    status.set_condition(ConditionType.RESOURCE_READY, status="True", reason="Ready", now=THEN)
    status.set_condition(ConditionType.JOB_STARTED, status="True", reason="Started", now=THEN)
    status.set_condition(
        ConditionType.INFERENCE_READY, status="False", reason="Pending", message="m", now=THEN
    )
    status.set_condition(
        ConditionType.WORKSPACE_SUCCEEDED, status="Unknown", reason="workspacePending", now=THEN
    )
    return status


def write_status(cluster: ControlPlane, room: str, name: str, status: WorkspaceStatus) -> None:
    """As a run does: a merge patch of the status subresource."""
    patch = json.dumps({"status": status.model_dump(mode="json", by_alias=True)})
    where = ("--namespace", room, "--subresource=status", "--type=merge")
    cluster.kubectl("patch", "workspace", name, *where, "--patch", patch)


def table(cluster: ControlPlane, room: str, name: str, *options: str) -> list[list[str]]:
    """What kubectl prints: the headings, and the cells of the Workspace's row."""
    text = cluster.kubectl("get", "workspace", name, "--namespace", room, *options)
    heading, row = text.splitlines()
    starts = [found.start() for found in re.finditer(r"\S+", heading)]
    ends = [*starts[1:], len(row)]
    return [heading.split(), [row[a:b].strip() for a, b in zip(starts, ends, strict=True)]]


def test_the_default_columns_are_the_documented_ones(
    apply: Apply, cluster: ControlPlane, room: str
) -> None:
    apply(manifest("tuning", {"metadata.name": "plain"}))
    write_status(cluster, room, "plain", tuning_status())
    headings, cells = table(cluster, room, "plain")
    assert " ".join(headings) == DEFAULT
    assert cells[:-1] == ["plain", MACHINE, "True", "False", "Unknown"]
    assert re.fullmatch(r"\d+s", cells[-1])


def test_wide_columns_tell_what_is_under_way_and_why(
    apply: Apply, cluster: ControlPlane, room: str
) -> None:
    status = tuning_status()
    apply(manifest("tuning", {"metadata.name": "wide"}))
    write_status(cluster, room, "wide", status)
    headings, cells = table(cluster, room, "wide", "--output=wide")
    assert " ".join(headings) == WIDE
    assert (
        dict(zip(headings, cells, strict=True)).items()
        >= {
            "JOBSTARTED": "True",
            "WORKSPACESUCCEEDED": "Unknown",
            "STATE": "Running",
            "PROGRESS": "tune 3/10 loss 1.500 70 tokens/s ETA 2 min",
            "REASON": "Pending",
            "RETUNED": "2026-01-01T00:00:00Z skipped: the data has the same ETag",
            "TARGETNODECOUNT": "1",
        }.items()
    )


def test_the_progress_reads_the_same_on_one_machine_and_on_a_cluster() -> None:
    progress = tuning_status().progress
    assert str(progress) == describe_progress(progress).replace("  ", " ")


def test_a_workspace_that_no_run_has_looked_at_says_so(
    apply: Apply, cluster: ControlPlane, room: str
) -> None:
    apply(manifest("tuning", {"metadata.name": "new"}))
    headings, cells = table(cluster, room, "new")
    assert " ".join(headings) == DEFAULT
    assert cells[:5] == ["new", MACHINE, "Unknown", "Unknown", "Unknown"]
    shown = dict(zip(*table(cluster, room, "new", "--output=wide"), strict=True))
    told = {key: shown[key] for key in ("STATE", "PROGRESS", "REASON")}
    assert told == {"STATE": "Pending", "PROGRESS": "waits for its run", "REASON": "NotYet"}


def test_v1alpha1_has_the_same_default_columns(
    apply: Apply, cluster: ControlPlane, room: str
) -> None:
    apply(manifest("tuning", {"metadata.name": "older"}))
    text = cluster.kubectl("get", "workspaces.v1alpha1.kaito.sh", "older", "--namespace", room)
    assert text.split("\n")[0].split() == DEFAULT.split()


def test_a_status_is_kept_as_it_was_written(
    apply: Apply, read: Read, cluster: ControlPlane, room: str
) -> None:
    status = tuning_status()
    apply(manifest("tuning", {"metadata.name": "kept"}))
    write_status(cluster, room, "kept", status)
    kept = read("kept")["status"]
    assert kept == status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert WorkspaceStatus.model_validate(kept) == status


def test_a_fresh_status_is_kept_as_it_was_written(
    apply: Apply, read: Read, cluster: ControlPlane, room: str
) -> None:
    apply(manifest("tuning", {"metadata.name": "fresh"}))
    write_status(cluster, room, "fresh", WorkspaceStatus())
    assert WorkspaceStatus.model_validate(read("fresh")["status"]) == WorkspaceStatus()


def test_v1alpha1_shows_all_of_the_status_but_what_is_new(
    apply: Apply, read: Read, cluster: ControlPlane, room: str
) -> None:
    apply(manifest("tuning", {"metadata.name": "seen"}))
    write_status(cluster, room, "seen", tuning_status())
    missing = set(read("seen")["status"]) - set(read("seen", version="v1alpha1")["status"])
    assert missing == {"state", "targetNodeCount"}


def test_writing_the_status_makes_no_new_generation(
    apply: Apply, read: Read, cluster: ControlPlane, room: str
) -> None:
    apply(manifest("tuning", {"metadata.name": "still"}))
    write_status(cluster, room, "still", tuning_status())
    assert read("still")["metadata"]["generation"] == 1


def test_a_user_cannot_write_the_status_with_the_workspace(apply: Apply) -> None:
    given = manifest("tuning", {"metadata.name": "faked"}) | {"status": {"state": "Ready"}}
    assert apply(given)["status"]["state"] == "Pending"


@pytest.mark.parametrize(
    "broken",
    [
        {"conditions": [{"type": "Accepted", "status": "Maybe"}]},
        {"history": [{"generation": number} for number in range(11)]},
    ],
)
def test_a_broken_status_is_refused(
    apply: Apply, cluster: ControlPlane, room: str, broken: dict[str, Any]
) -> None:
    apply(manifest("tuning", {"metadata.name": "broken"}))
    patch = json.dumps({"status": broken})
    with pytest.raises(RuntimeError, match="is invalid"):
        cluster.kubectl(
            "patch", "wk", "broken", "-n", room, "--subresource=status", "--type=merge", "-p", patch
        )
