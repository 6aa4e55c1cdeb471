"""What the two service accounts may do: all of what they do, and nothing else."""

import json
import time
from typing import Any

import pytest

from tests.chart.conftest import Installation
from tests.chart.rendering import hooks
from tests.cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Rights = dict[str, set[str]]

WATCHER: Rights = {
    "workspaces.kaito.sh": {"get", "list", "watch", "create", "patch", "delete"},
    "workspaces/status.kaito.sh": {"patch"},
    "inferencesets.kaito.sh": {"get", "list", "watch"},
    "inferencesets/status.kaito.sh": {"patch"},
    "inferencesets/finalizers.kaito.sh": {"update"},
    "pods": {"list", "watch"},
    "configmaps": {"list", "watch"},
    "poddisruptionbudgets.policy": {"get", "list", "watch", "create", "patch"},
    "services": {"get", "list", "watch", "create", "patch"},
    "persistentvolumeclaims": {"list", "watch"},
    "resourcequotas": {"list", "watch"},
    "limitranges": {"list", "watch"},
    "statefulsets.apps": {"list", "watch", "delete"},
    "controllerrevisions.apps": {"list", "watch"},
    "jobs.batch": {"list", "delete"},
    "events": {"get", "create", "patch"},
}
LEADING: Rights = {
    "leases.coordination.k8s.io": {"create"},
    "leases.coordination.k8s.io kaitoflow-watcher": {"get", "patch"},
}
WORKER: Rights = {
    "workspaces.kaito.sh": {"get", "list", "create", "patch"},
    "workspaces/status.kaito.sh": {"patch"},
    "workspaces/finalizers.kaito.sh": {"update"},
    "configmaps": {"get", "list", "create", "patch", "delete"},
    "services": {"get", "list", "create", "patch", "delete"},
    "statefulsets.apps": {"get", "list", "create", "patch", "delete"},
    "controllerrevisions.apps": {"get", "list", "create", "patch", "delete"},
    "jobs.batch": {"get", "list", "watch", "create", "patch", "delete"},
    "pods": {"list", "watch", "create"},
    "pods/log": {"get"},
    "pods/eviction": {"create"},
    "resourcequotas": {"list"},
    "limitranges": {"list"},
    "persistentvolumeclaims": {"get"},
    "events": {"get", "list", "create", "patch"},
    "secrets": {"get"},
}
# Of what lies in no namespace.
SEEN_WHEREVER: Rights = {
    "customresourcedefinitions.apiextensions.k8s.io": {"list", "watch"},
    "nodes": {"list", "watch"},
}
NODES: Rights = {
    "nodes": {"get", "list"},
    "resourceslices.resource.k8s.io": {"list"},
    "deviceclasses.resource.k8s.io": {"list"},
    "resourceclaims.resource.k8s.io": {"list"},
}
# Of other namespaces, when those of Workspaces are named.
SEEN_BY_WATCHER: Rights = {
    "workspaces.kaito.sh": {"list", "watch"},
    "inferencesets.kaito.sh": {"list", "watch"},
}
SEEN_BY_WORKER: Rights = {"jobs.batch": {"list", "watch"}, "pods": {"list", "watch"}}

# The watcher has members of InferenceSets go, which takes the right; the worker never does.
FORBIDDEN_TO_WORKER = [("delete", "workspaces.kaito.sh")]
FORBIDDEN = [
    ("deletecollection", "workspaces.kaito.sh"),
    ("create", "inferencesets.kaito.sh"),
    ("delete", "inferencesets.kaito.sh"),
    ("list", "secrets"),
    ("watch", "secrets"),
    ("create", "secrets"),
    ("delete", "pods"),
    ("create", "pods/exec"),
    ("create", "pods/portforward"),
    ("update", "nodes"),
    ("delete", "nodes"),
    ("create", "serviceaccounts/token"),
    ("impersonate", "serviceaccounts"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("bind", "clusterroles.rbac.authorization.k8s.io"),
    ("escalate", "roles.rbac.authorization.k8s.io"),
    ("patch", "namespaces"),
    ("create", "customresourcedefinitions.apiextensions.k8s.io"),
    ("*", "*"),
]


def account(installation: Installation, name: str) -> str:
    return f"system:serviceaccount:{installation.namespace}:kaitoflow-{name}"


def rights(control_plane: ControlPlane, user: str, namespace: str) -> Rights:
    """What a user may do in a namespace, as the API server's authorizer lists it."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = control_plane.kubectl(
        *("create", "--filename=-", "--output=json", "--validate=false", f"--as={user}"),
        stdin=json.dumps(review),
    )
    found: Rights = {}
    for rule in json.loads(answer)["status"]["resourceRules"]:
        for key in _keys(rule):
            found.setdefault(key, set()).update(rule["verbs"])
    return found


def _keys(rule: dict[str, Any]) -> list[str]:
    return [
        f"{resource}.{group}".rstrip(".") + (f" {name}" if name else "")
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
    ]


def own_rights(installation: Installation, name: str, namespace: str) -> Rights:
    """Those that a service account without any role does not have."""
    kubernetes = installation.control_plane
    everyone = rights(kubernetes, account(installation, "nobody"), namespace)
    found = rights(kubernetes, account(installation, name), namespace)
    return {key: verbs for key, verbs in found.items() if verbs != everyone.get(key)}


def may(installation: Installation, name: str, verb: str, resource: str, namespace: str) -> bool:
    full, _, group = resource.partition(".")
    plural, _, subresource = full.partition("/")
    asked = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": account(installation, name),
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": asked | {"namespace": namespace},
        },
    }
    create = ("create", "--filename=-", "--output=json")
    answer = installation.control_plane.kubectl(*create, stdin=json.dumps(review))
    return bool(json.loads(answer)["status"]["allowed"])


def test_everywhere_they_may_do_what_they_do_and_nothing_else(installation: Installation) -> None:
    installation.install({"allNamespaces": True})
    for namespace in (installation.workspaces, "kube-system"):
        assert own_rights(installation, "watcher", namespace) == WATCHER | SEEN_WHEREVER
        assert own_rights(installation, "worker", namespace) == WORKER | NODES
    home = installation.namespace
    assert own_rights(installation, "watcher", home) == WATCHER | SEEN_WHEREVER | LEADING
    assert own_rights(installation, "worker", home) == WORKER | NODES


def test_with_namespaces_named_they_may_do_it_there_only(installation: Installation) -> None:
    installation.install()
    assert own_rights(installation, "watcher", installation.workspaces) == WATCHER | SEEN_WHEREVER
    assert own_rights(installation, "worker", installation.workspaces) == WORKER | NODES
    elsewhere = "kube-system"
    assert own_rights(installation, "watcher", elsewhere) == SEEN_BY_WATCHER | SEEN_WHEREVER
    assert own_rights(installation, "worker", elsewhere) == SEEN_BY_WORKER | NODES
    home = installation.namespace
    assert own_rights(installation, "watcher", home) == SEEN_BY_WATCHER | SEEN_WHEREVER | LEADING


@pytest.mark.parametrize(
    ("provisioner", "status"),
    [("karpenter", {}), ("aks", {"nodeclaims/status.karpenter.sh": {"patch"}})],
)
def test_who_makes_nodes_may_claim_them(
    installation: Installation, provisioner: str, status: Rights
) -> None:
    azure = {"subscriptionId": "0-0", "resourceGroup": "team", "cluster": "gpus"}
    installation.install({"nodes": {"provisioner": provisioner, "azure": azure}})
    claiming: Rights = {
        "nodeclaims.karpenter.sh": {"list", "create", "patch", "delete"},
        "workspaces.kaito.sh": {"get", "list", "create", "patch"},
    }
    given = own_rights(installation, "worker", installation.workspaces)
    assert given == WORKER | NODES | claiming | status
    watching = own_rights(installation, "watcher", installation.workspaces)
    assert watching["nodeclaims.karpenter.sh"] == {"list", "watch"}
    at_home = own_rights(installation, "worker", installation.namespace)
    remembered: Rights = {
        "configmaps": {"create"},
        "configmaps kaitoflow-unavailable-offers": {"get", "patch"},
        "nodeclaims.karpenter.sh": claiming["nodeclaims.karpenter.sh"],
        "workspaces.kaito.sh": {"list"},
    }
    assert at_home == SEEN_BY_WORKER | NODES | status | remembered


def test_neither_may_take_more_than_it_was_given(installation: Installation) -> None:
    installation.install()
    granted = [
        (name, verb, resource)
        for name in ("watcher", "worker")
        for verb, resource in [*FORBIDDEN, *(FORBIDDEN_TO_WORKER if name == "worker" else ())]
        if may(installation, name, verb, resource, installation.workspaces)
    ]
    assert granted == []
    assert may(installation, "worker", "get", "secrets", installation.workspaces)


@pytest.mark.parametrize(("drain", "verbs"), [(False, {"list"}), (True, {"list", "delete"})])
def test_the_hooks_may_do_what_they_do_while_they_are_there_and_nothing_else(
    installation: Installation, drain: bool, verbs: set[str]
) -> None:
    objects = installation.render({"uninstall": {"drain": drain}})
    rights_of_both = [o for name in ("passwords", "uninstall") for o in hooks(objects, name)[:-1]]
    manifests = json.dumps({"apiVersion": "v1", "kind": "List", "items": rights_of_both})
    installation.control_plane.kubectl("create", "--filename=-", stdin=manifests)
    home, elsewhere = installation.namespace, installation.workspaces
    assert own_rights(installation, "passwords", home) == {
        "secrets": {"create"},
        "secrets kaitoflow-postgresql": {"get"},
        "secrets kaitoflow-prefect-auth": {"get"},
    }
    assert own_rights(installation, "uninstall", home) == {"jobs.batch": {"get"}}
    assert own_rights(installation, "uninstall", elsewhere) == {
        "workspaces.kaito.sh": verbs,
        "inferencesets.kaito.sh": verbs,
    }
    assert own_rights(installation, "passwords", elsewhere) == {}


def test_no_rights_are_given_when_they_are_made_elsewhere(installation: Installation) -> None:
    installation.install({"rbac": {"create": False}})
    assert own_rights(installation, "watcher", installation.namespace) == {}
    assert own_rights(installation, "worker", installation.namespace) == {}


@pytest.mark.parametrize(
    ("role", "verbs"),
    [
        ("view", {"get", "list", "watch"}),
        (
            "edit",
            {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"},
        ),
    ],
)
def test_who_may_edit_a_namespace_may_edit_its_workspaces(
    installation: Installation, role: str, verbs: set[str]
) -> None:
    installation.install()
    kubernetes, here = installation.control_plane, f"--namespace={installation.workspaces}"
    user = f"a-person-with-{role}"
    kubernetes.kubectl(
        "create", "rolebinding", "person", f"--clusterrole={role}", f"--user={user}", here
    )
    deadline_s = time.monotonic() + 60  # a controller joins the roles in its own time
    found: Rights = {}
    while found.get("workspaces.kaito.sh") != verbs and time.monotonic() < deadline_s:
        found = rights(kubernetes, user, installation.workspaces)
    assert found["workspaces.kaito.sh"] == verbs
    assert found["inferencesets.kaito.sh"] == found["inferencesets/scale.kaito.sh"] == verbs
    assert not {"workspaces/status.kaito.sh", "inferencesets/status.kaito.sh"} & found.keys()
