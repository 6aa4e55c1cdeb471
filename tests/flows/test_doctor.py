"""`kaitoflow doctor`: what each look means, and what it advises."""

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.doctor import machine, verdicts
from flows.doctor.registries import Named, look, named_images
from tasks.contract.artifacts import Check
from tasks.settings import Settings
from tests.builders import tuning_workspace
from tests.cluster.registry import RunningRegistry, docker_config, running_registry

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
CRDS = Path(__file__).parents[2] / "deployments" / "crds"


def crd() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CRDS / "kaito.sh_workspaces.yaml").read_text())
    return loaded


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def node(*, gpus: int = 0, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "n1", "labels": {k.replace("__", "/"): v for k, v in labels.items()}},
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpus)} if gpus else {},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def found(component: str, *, ready: int, release: str = version("kaitoflow")) -> dict[str, Any]:
    labels = {verdicts.COMPONENT_LABEL: component, verdicts.VERSION_LABEL: release}
    return {
        "kind": "Deployment",
        "metadata": {"namespace": "kaitoflow", "name": f"kaitoflow-{component}", "labels": labels},
        "status": {"readyReplicas": ready},
    }


def test_our_own_definition_keeps_all_that_is_written_of_a_workspace() -> None:
    assert verdicts.definition(crd()).result == "ok"


def test_a_definition_of_another_version_is_told_with_what_it_drops() -> None:
    older = crd()
    for each in older["spec"]["versions"]:
        del each["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["repairs"]
    check = verdicts.definition(older)
    assert (check.result, check.detail) == (
        "fail",
        "it is of another version: the API server drops status.repairs",
    )
    assert "deployments/crds" in check.fix


def test_a_cluster_without_workspaces_is_told_how_it_learns_of_them() -> None:
    assert verdicts.definition(None).fix == (
        "kubectl apply --server-side --filename deployments/crds"
    )


@pytest.mark.parametrize(
    ("there", "result", "says"),
    [
        ([], "fail", "the cluster has none"),
        ([found("worker", ready=0)], "fail", "no pod of kaitoflow-worker is ready"),
        ([found("worker", ready=1)], "ok", "kaitoflow/kaitoflow-worker, version"),
        ([found("worker", ready=1, release="0.0.1")], "warn", "of version 0.0.1"),
    ],
)
def test_a_program_has_a_ready_pod_of_this_version(
    there: list[dict[str, Any]], result: str, says: str
) -> None:
    check = verdicts.program("worker", there)
    assert check.result == result
    assert says in check.detail


def test_prefects_server_may_be_somebody_elses() -> None:
    assert verdicts.program("prefect", []).result == "warn"


@pytest.mark.parametrize(
    ("spec", "result", "says"),
    [
        (None, "fail", "no watcher leads"),
        ({"holderIdentity": "", "renewTime": ago(1)}, "fail", "no watcher leads"),
        ({"holderIdentity": "w", "renewTime": ago(5), "leaseDurationSeconds": 15}, "ok", "w leads"),
        (
            {"holderIdentity": "w", "renewTime": ago(90), "leaseDurationSeconds": 15},
            "fail",
            "w was to lead and is silent for",
        ),
    ],
)
def test_a_watcher_leads_while_it_renews_its_lease(
    spec: dict[str, Any] | None, result: str, says: str
) -> None:
    check = verdicts.leader({"spec": spec} if spec else None, NOW)
    assert check.result == result
    assert says in check.detail


def test_who_may_not_is_told_why_and_what_to_do() -> None:
    answer = {"status": {"allowed": False, "reason": "no role binds you"}}
    check = verdicts.right("you", "create Workspaces in apps", answer, fix="ask an admin")
    assert (check.result, check.fix) == ("fail", "ask an admin")
    assert check.detail == "you may not create Workspaces in apps (no role binds you)"


@pytest.mark.parametrize(
    ("nodes", "result", "says"),
    [
        ([node(gpus=2), node()], "ok", "2 on 1 of 2 nodes"),
        ([node()], "warn", "1 nodes, none with a GPU"),
        ([node(accelerator="nvidia")], "fail", "that Kubernetes does not count: n1"),
        ([node(gpus=1, accelerator="nvidia")], "ok", "1 on 1 of 1 nodes"),
    ],
)
def test_gpus_are_those_that_kubernetes_counts(
    nodes: list[dict[str, Any]], result: str, says: str
) -> None:
    check = verdicts.gpus(nodes)
    assert check.result == result
    assert says in check.detail


def test_a_default_class_of_volumes_is_named_and_missed() -> None:
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    named = {"metadata": {"name": "ssd", "annotations": default}}
    assert "ssd" in verdicts.storage([named]).detail
    assert verdicts.storage([{"metadata": {"name": "hdd"}}]).result == "warn"


@pytest.mark.parametrize(
    ("apart_s", "result"), [(0, "ok"), (-20, "ok"), (40, "fail"), (-40, "fail")]
)
def test_clocks_agree_within_half_a_minute(apart_s: float, result: str) -> None:
    check = verdicts.clock(NOW + timedelta(seconds=apart_s), NOW, whose="the API server")
    assert check.result == result


@pytest.mark.parametrize(
    ("workers", "result", "says"),
    [
        ([], "fail", "no worker asks for the runs of pool kaitoflow"),
        ([{"name": "w", "last_heartbeat_time": ago(5)}], "ok", "w asks for runs"),
        ([{"name": "w", "last_heartbeat_time": ago(600)}], "fail", "w was heard of"),
    ],
)
def test_a_worker_asks_for_runs(workers: list[Mapping[str, Any]], result: str, says: str) -> None:
    check = verdicts.workers("kaitoflow", workers, NOW)
    assert check.result == result
    assert says in check.detail


def room(
    *, free_gb: float = 50, memory_gib: float = 16, is_writable: bool = True
) -> dict[str, str]:
    told = verdicts.room(
        free_gb=free_gb, memory_gib=memory_gib, home="/home/me", is_writable=is_writable
    )
    return {check.name: check.result for check in told}


def test_a_machine_wants_disk_and_memory() -> None:
    assert room() == {"disk": "ok", "memory": "ok"}
    assert room(free_gb=1.0) == {"disk": "warn", "memory": "ok"}
    assert room(memory_gib=1.0) == {"disk": "ok", "memory": "warn"}
    assert room(is_writable=False) == {"disk": "fail", "memory": "ok"}


def test_a_gpu_that_cannot_be_used_is_told_before_a_run_pays_for_it() -> None:
    assert verdicts.devices(["NVIDIA T4"], cores=4).detail == "NVIDIA T4"
    assert "4 CPU cores" in verdicts.devices([], cores=4).detail
    broken = verdicts.devices(["NVIDIA T4"], cores=4, problem="the driver is too old")
    assert (broken.result, broken.detail) == ("fail", "NVIDIA T4: the driver is too old")


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_machine_without_a_way_out_is_told_so_and_still_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    checks = by_name(machine.examine(Settings(home=tmp_path / "new")))
    assert checks.keys() >= {"disk", "memory", "GPU", "Prefect", "models"}
    assert (checks["models"].result, checks["Prefect"].result) == ("warn", "fail")
    assert "HF_ENDPOINT" in checks["models"].fix
    assert "PREFECT_API_URL" in checks["Prefect"].fix


@pytest.fixture(scope="module")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("private"), auth=True) as running:
        yield running


def secret(registry: RunningRegistry, **login: str) -> dict[str, Any]:
    content = base64.b64encode(docker_config(registry.host, **login).encode()).decode()
    return {"metadata": {"name": "push"}, "data": {".dockerconfigjson": content}}


@pytest.mark.registry
def test_a_registry_is_asked_with_the_login_that_a_workspace_names(
    private_registry: RunningRegistry,
) -> None:
    images = [Named(f"{private_registry.host}/a:{tag}", "push") for tag in ("1", "2")]
    [right] = look(images, {"push": secret(private_registry)})
    assert (right.result, "answers, and has not yet" in right.detail) == ("ok", True)
    [wrong] = look(images, {"push": secret(private_registry, password="wrong")})
    assert (wrong.result, wrong.reason) == ("fail", "RegistryDenied")
    assert "check the password" in wrong.detail + wrong.fix
    [gone] = look(images, {"push": None})
    assert (gone.result, "kubectl create secret docker-registry push" in gone.fix) == ("fail", True)


@pytest.mark.registry
def test_a_login_that_may_not_be_read_or_a_registry_that_is_away_is_only_told(
    private_registry: RunningRegistry,
) -> None:
    images = [Named(f"{private_registry.host}/a:1", "push"), Named("127.0.0.1:9/b:1", "")]
    nothing: dict[str, Any] = {}
    for logins in (nothing, None):
        unread, away = look(images, logins)
        assert (unread.result, unread.reason) == ("warn", "RegistryDenied")
        assert "without a login" in unread.detail
        assert (away.result, away.reason) == ("warn", "RegistryUnavailable")
        assert "pods may reach it all the same" in away.fix


def test_the_images_of_a_workspace_are_those_that_it_reads_and_writes() -> None:
    tuned = tuning_workspace(input={"image": "r/rows:1", "imagePullSecrets": ["pull"]})
    assert [*named_images(tuned)] == [
        Named("registry.example.com/adapters/tuned:1", "push"),
        Named("r/rows:1", "pull"),
    ]
