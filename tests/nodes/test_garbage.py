"""Who is taken for garbage: what nobody needs, for longer than its grace, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.contract.status import State
from tasks.contract.workspace import FINALIZER, STOPPED_ANNOTATION, parse_workspace
from tasks.nodes.claims.node_claim import AGENT_POOL_FINALIZER, node_claim
from tasks.nodes.garbage.leaks import (
    Evidence,
    Leak,
    LeakKind,
    Suspects,
    Terms,
    find_leaks,
    given_back,
)
from tasks.nodes.offers import Offer
from tasks.nodes.provisioner import Machine
from tasks.skus.prices import price_table
from tests.builders import tuning_manifest

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SIZE = "Standard_NC24ads_A100_v4"
GRACE_S = 600.0
TERMS = Terms(price_per_hour=price_table().price_per_hour, grace_s=GRACE_S, now=NOW)
Object = dict[str, Any]
SETTLED = [each for each in State if each.is_settled]


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


GIVEN_BACK: Object = {"deletionTimestamp": ago(3600)}


def ended_condition(
    ended_s: float, kind: str = "WorkspaceSucceeded", generation: int = 1
) -> Object:
    return {
        "type": kind,
        "status": "True",
        "reason": "R",
        "observedGeneration": generation,
        "lastTransitionTime": ago(ended_s),
    }


def workspace(
    state: str = "Ready", *, uid: str = "1", ended_s: float = 3600, **meta: Any
) -> Object:
    """A Workspace as the API server lists it; `ended_s`: when its conditions last changed."""
    condition = ended_condition(ended_s)
    return {
        "metadata": {
            "name": f"tuned-{uid}",
            "namespace": "team",
            "uid": uid,
            "generation": 1,
            "creationTimestamp": ago(7200),
            **meta,
        },
        "resource": {"labelSelector": {"matchLabels": {"apps": "shared"}}},
        "status": {"state": state, "observedGeneration": 1, "conditions": [condition]},
    }


def claim(*, uid: str = "1", age_s: float = 7200, launched: bool = True, **meta: Any) -> Object:
    """A claim of that Workspace, as the API server lists it; it has become node `gpu`."""
    manifest = tuning_manifest(f"tuned-{uid}")
    manifest["metadata"] |= {"namespace": "team", "uid": uid}
    made = node_claim(
        parse_workspace(manifest, source="test"),
        Offer(instance_type=SIZE),
        slot=0,
        disk_gib=100,
        finalizers=(AGENT_POOL_FINALIZER,),
    )
    made["metadata"] |= {"creationTimestamp": ago(age_s), "uid": f"claim-{uid}", **meta}
    done = {"status": "True", "lastTransitionTime": ago(age_s)}
    conditions = [{"type": step, **done} for step in ("Launched", "Registered", "Initialized")]
    made["status"] = {"nodeName": "gpu", "conditions": conditions} if launched else {}
    return made


def with_meta(found: Object, **meta: Any) -> Object:
    return found | {"metadata": found["metadata"] | meta}


def pool(name: str = "ws1", **changes: Any) -> Machine:
    """An agent pool of ours, whose node is `gpu` when the node says so."""
    made = Machine(
        name=name,
        claim=name,
        instance_type=SIZE,
        capacity_type="spot",
        state="Succeeded",
        workspace="team/tuned-1",
        created=NOW - timedelta(hours=2),
    )
    return replace(made, **changes)


def node(*, ready: str = "True", of_pool: str = "ws1", **labels: str) -> Object:
    return {
        "metadata": {
            "name": "gpu",
            "labels": {"agentpool": of_pool, **labels},
            "creationTimestamp": ago(7000),
        },
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def pod(*, owner: str = "ReplicaSet", phase: str = "Running", **annotations: str) -> Object:
    return {
        "metadata": {
            "name": "work",
            "namespace": "team",
            "ownerReferences": [{"kind": owner}],
            "annotations": annotations,
        },
        "spec": {"nodeName": "gpu"},
        "status": {"phase": phase},
    }


def leaks(
    *claims: Object, pools: tuple[Machine, ...] = (), terms: Terms = TERMS, **evidence: Any
) -> list[Leak]:
    wanted = {"workspaces": [], "nodes": [], **evidence}
    return find_leaks(Suspects(machines=pools, claims=claims), Evidence(**wanted), terms)


def kinds(found: list[Leak]) -> list[LeakKind]:
    return [leak.kind for leak in found]


def test_what_an_older_generation_is_served_on_is_kept_when_an_edit_fails() -> None:
    edited = workspace("Failed", generation=2)
    edited["status"] |= {
        "observedGeneration": 2,
        "conditions": [ended_condition(3600, "InferenceReady")],
    }
    assert leaks(claim(), workspaces=[edited], nodes=[node()]) == []
    edited["status"]["conditions"] = [ended_condition(3600)]
    assert kinds(leaks(claim(), workspaces=[edited], nodes=[node()])) == [LeakKind.ENDED_WORKSPACE]


def test_a_claim_whose_workspace_is_gone_is_a_leak_with_its_price() -> None:
    [leak] = leaks(claim())
    assert leak == Leak(
        kind=LeakKind.NO_WORKSPACE,
        name=claim()["metadata"]["name"],
        workspace="team/tuned-1",
        instance_type=SIZE,
        capacity_type="on-demand",
        since=NOW - timedelta(hours=2),
        price_per_hour=price_table().price_per_hour(SIZE, "on-demand"),
    )
    assert leak.price_per_hour


def test_another_workspace_of_its_name_does_not_need_it() -> None:
    later = workspace(uid="2", name="tuned-1")
    assert kinds(leaks(claim(), workspaces=[later])) == [LeakKind.NO_WORKSPACE]


@pytest.mark.parametrize("state", ["Failed", "Stopped", "Succeeded"])
def test_a_claim_whose_workspace_has_ended_is_a_leak_since_then(state: str) -> None:
    [leak] = leaks(claim(), workspaces=[workspace(state)])
    assert (leak.kind, leak.since) == (LeakKind.ENDED_WORKSPACE, NOW - timedelta(hours=1))


@pytest.mark.parametrize("state", ["Pending", "Running", "Ready", "NotReady"])
def test_a_claim_whose_workspace_lives_is_none(state: str) -> None:
    assert leaks(claim(), workspaces=[workspace(state)]) == []


def test_a_workspace_whose_newer_generation_is_to_run_lives() -> None:
    assert leaks(claim(), workspaces=[workspace("Failed", generation=2)]) == []


def test_a_workspace_that_is_being_deleted_gives_its_claims_back_itself() -> None:
    leaving = workspace("Failed", deletionTimestamp=ago(3600))
    assert leaks(claim(), workspaces=[leaving]) == []


def test_a_pool_without_a_claim_is_a_leak() -> None:
    [leak] = leaks(pools=(pool(),))
    assert (leak.kind, leak.name, leak.workspace) == (LeakKind.NO_CLAIM, "ws1", "team/tuned-1")
    assert leak.price_per_hour == price_table().price_per_hour(SIZE, "spot")


def test_a_pool_of_a_claim_is_none() -> None:
    there = claim(name="ws1")
    assert leaks(there, pools=(pool(),), workspaces=[workspace()]) == []


def test_a_pool_that_is_being_removed_is_none() -> None:
    assert leaks(pools=(pool(is_leaving=True),)) == []


def test_a_claim_whose_pool_is_gone_is_a_leak() -> None:
    found = leaks(claim(), workspaces=[workspace()], machines=())
    assert kinds(found) == [LeakKind.NO_POOL]


def test_a_claim_whose_pool_was_made_between_two_looks_is_none() -> None:
    made = (pool("ws1"),)
    assert leaks(claim(name="ws1"), workspaces=[workspace()], machines=made) == []


@pytest.mark.parametrize(
    "there", [claim(launched=False), claim(finalizers=[]), claim(deletionTimestamp=ago(3600))]
)
def test_a_claim_that_has_no_pool_of_ours_misses_none(there: Object) -> None:
    assert leaks(there, workspaces=[workspace()], machines=()) == []


def test_where_others_fulfil_claims_no_pool_is_missed() -> None:
    assert leaks(claim(), workspaces=[workspace()], machines=None) == []


@pytest.mark.parametrize(
    "found",
    [
        leaks(claim(age_s=GRACE_S - 1)),
        leaks(claim(), workspaces=[workspace("Failed", ended_s=GRACE_S - 1)]),
        leaks(claim(age_s=GRACE_S - 1), workspaces=[workspace("Failed")]),
        leaks(claim(deletionTimestamp=ago(GRACE_S - 1))),
        leaks(claim(age_s=GRACE_S - 1), workspaces=[workspace()], machines=()),
        leaks(pools=(pool(created=NOW - timedelta(seconds=GRACE_S - 1)),)),
    ],
    ids=["claim", "ended", "ended claim", "given back", "launched", "pool"],
)
def test_what_is_young_is_left_alone(found: list[Leak]) -> None:
    assert found == []


HELD: Object = {"finalizers": [FINALIZER]}


def test_a_workspace_under_way_without_a_run_is_told_with_what_its_machines_cost() -> None:
    running = workspace("Running", **HELD)
    running["status"]["workerNodes"] = ["gpu"]
    [leak] = leaks(claim(), workspaces=[running], with_run={"2"})
    assert (leak.kind, leak.name, leak.nodes) == (LeakKind.NO_RUN, "tuned-1", ("gpu",))
    assert leak.price_per_hour == price_table().price_per_hour(SIZE, "on-demand")
    assert leak.kept_because.endswith("kaitoflow stop tuned-1 --namespace team")


def test_a_workspace_that_was_changed_since_its_last_run_wants_one() -> None:
    changed = workspace("Ready", generation=2, **HELD)
    assert kinds(leaks(workspaces=[changed], with_run=())) == [LeakKind.NO_RUN]


@pytest.mark.parametrize(
    "idle",
    [
        *(workspace(state, **HELD) for state in SETTLED),
        workspace("Running", annotations={STOPPED_ANNOTATION: ""}, **HELD),
        workspace("Running", deletionTimestamp=ago(3600), **HELD),
        workspace("Running"),
        workspace("Running", ended_s=GRACE_S - 1, **HELD),
    ],
    ids=[*SETTLED, "stopped", "deleted", "no watcher's", "young"],
)
def test_a_workspace_that_needs_no_run_misses_none(idle: Object) -> None:
    assert leaks(workspaces=[idle], with_run=()) == []


@pytest.mark.parametrize("with_run", [{"1"}, None], ids=["it has one", "nobody was asked"])
def test_a_run_is_missed_only_where_there_is_none(with_run: set[str] | None) -> None:
    assert leaks(workspaces=[workspace("Running", **HELD)], with_run=with_run) == []


def test_a_pool_whose_age_nobody_knows_is_as_old_as_its_node() -> None:
    unknown = pool(created=None)
    young = node()
    young["metadata"]["creationTimestamp"] = ago(GRACE_S - 1)
    assert leaks(pools=(unknown,), nodes=[young]) == []
    assert kinds(leaks(pools=(unknown,), nodes=[node()])) == [LeakKind.NO_CLAIM]


@pytest.mark.parametrize("found", [{"there": (claim(),)}, {"pools": (pool(),)}])
def test_a_ready_node_with_pods_of_its_own_is_told_and_kept(found: Any) -> None:
    pools = found.get("pools", ())
    [leak] = leaks(*found.get("there", ()), pools=pools, nodes=[node()], pods=[pod(), pod()])
    assert leak.kept_because.startswith("its node is Ready and runs pod team/work and 1 more")


@pytest.mark.parametrize(
    "beside",
    [
        pod(owner="DaemonSet"),
        pod(**{"kubernetes.io/config.mirror": "x"}),
        pod(phase="Succeeded"),
        pod(phase="Failed"),
    ],
    ids=["daemon", "mirror", "done", "failed"],
)
def test_what_runs_on_every_node_or_runs_no_more_keeps_none(beside: Object) -> None:
    [leak] = leaks(claim(), nodes=[node()], pods=[beside])
    assert not leak.kept_because


def test_a_node_that_is_not_ready_is_kept_by_no_pod() -> None:
    [leak] = leaks(claim(), nodes=[node(ready="Unknown")], pods=[pod()])
    assert not leak.kept_because


def test_a_shared_node_is_none_while_another_workspace_runs_on_it() -> None:
    heir = workspace("Running", uid="2")
    heir["status"]["workerNodes"] = ["gpu"]
    assert leaks(claim(), workspaces=[heir], nodes=[node()]) == []
    assert leaks(pools=(pool(),), workspaces=[heir], nodes=[node()]) == []
    heir["status"]["state"] = "Failed"
    assert kinds(leaks(claim(), workspaces=[heir], nodes=[node()])) == [LeakKind.NO_WORKSPACE]


OF_THE_FIRST = {"kaito.sh/workspace": "tuned-1", "kaito.sh/workspacenamespace": "team"}


@pytest.mark.parametrize(
    ("name", "labels", "is_awaited"),
    [
        ("tuned-2", {"apps": "shared"}, True),
        ("tuned-2", {"apps": "shared", **OF_THE_FIRST}, False),
        ("tuned-1", OF_THE_FIRST, True),
        ("tuned-2", {}, False),
    ],
    ids=["nobody's", "another's", "its own name's", "other labels"],
)
def test_a_pool_whose_node_a_waiting_workspace_would_take_is_none(
    name: str, labels: dict[str, str], *, is_awaited: bool
) -> None:
    waiting = workspace("Pending", uid="2", name=name)
    found = leaks(pools=(pool(),), workspaces=[waiting], nodes=[node(**labels)])
    assert (found == []) == is_awaited
    waiting["status"]["workerNodes"] = ["another"]
    assert kinds(leaks(pools=(pool(),), workspaces=[waiting], nodes=[node(**labels)])) == [
        LeakKind.NO_CLAIM
    ]


def test_the_node_of_a_claim_is_awaited_by_nobody_else() -> None:
    waiting = workspace("Pending", uid="2", name="tuned-1")
    found = leaks(claim(), workspaces=[waiting], nodes=[node(apps="shared", **OF_THE_FIRST)])
    assert kinds(found) == [LeakKind.NO_WORKSPACE]


def settled(*worker_nodes: str, state: str = "Ready", **meta: Any) -> Object:
    found = workspace(state, **meta)
    found["status"]["workerNodes"] = [*worker_nodes]
    return found


def test_a_claim_whose_node_a_settled_workspace_does_not_use_is_a_leak_since_then() -> None:
    [leak] = leaks(claim(), workspaces=[settled("another")], nodes=[node()])
    assert (leak.kind, leak.since) == (LeakKind.UNUSED, NOW - timedelta(hours=1))
    assert not leak.kept_because


def test_an_unused_node_with_pods_is_told_and_kept() -> None:
    [leak] = leaks(claim(), workspaces=[settled("another")], nodes=[node()], pods=[pod()])
    assert leak.kept_because


@pytest.mark.parametrize(
    ("owner", "with_run"),
    [
        (settled("gpu"), ()),
        (settled("another", state="Running"), ()),
        (settled("another", generation=2), ()),
        (settled("another", ended_s=GRACE_S - 1), ()),
        (settled("another"), {"1"}),
        (settled(), ()),
    ],
    ids=["used", "running", "edited", "young", "with a run", "nodes not known"],
)
def test_what_may_be_used_yet_is_no_leak(owner: Object, with_run: Any) -> None:
    assert leaks(claim(), workspaces=[owner], nodes=[node()], with_run=with_run) == []


@pytest.mark.parametrize("lacks", ["labels", "annotations"])
def test_a_claim_that_is_not_ours_is_none(lacks: str) -> None:
    foreign = with_meta(claim(), **{lacks: {}})
    assert leaks(foreign) == []
    assert given_back([with_meta(foreign, **GIVEN_BACK)]) == []


def test_a_claim_that_was_given_back_and_stays_is_told_and_not_given_back_again() -> None:
    [leak] = leaks(with_meta(claim(), **GIVEN_BACK))
    assert leak.kept_because.startswith("it was given back and is not gone yet")


def test_of_given_back_claims_ours_are_seen_off() -> None:
    leaving = with_meta(claim(), **GIVEN_BACK)
    assert given_back([leaving, claim()]) == [leaving]


def test_only_a_pool_without_a_claim_is_known_to_the_cloud_alone() -> None:
    [of_the_cloud], [of_the_cluster] = leaks(pools=(pool(),)), leaks(claim())
    assert (of_the_cloud.is_pool, of_the_cluster.is_pool) == (True, False)
