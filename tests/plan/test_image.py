"""What a plan says of the image, of its registry and of the Secrets."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.artifacts import Check
from tasks.contract.errors import (
    AddressForbidden,
    InvalidWorkspace,
    RegistryDenied,
    RegistryUnavailable,
    SecretNotFound,
    TagTaken,
)
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.findings import Findings
from tasks.plan.image import image, secrets
from tasks.platform.base import World
from tasks.platform.outputs import Rivals
from tests.builders import tuning_workspace

HERE = World(config_maps={}, has_secret=lambda _name: True)
PUSHING = replace(HERE, push=True)
CLUSTER = replace(PUSHING, is_cluster=True)
NOTHING = Findings()
NAME = "registry.example.com/adapters/tuned:1"


def into_a_volume() -> Workspace:
    return tuning_workspace(output={"volumeSource": {"emptyDir": {}}})


def test_an_image_that_stays_here_says_how_it_is_sent() -> None:
    told = image(tuning_workspace(), HERE, NOTHING)
    assert told == f"{NAME} (kept on disk; --push sends it to the registry)"


def test_an_adapter_in_a_volume_is_a_cluster_s() -> None:
    told = image(into_a_volume(), CLUSTER, NOTHING)
    assert told == "kept in the volume (output.volumeSource)"
    with pytest.raises(InvalidWorkspace, match="give tuning.output.image"):
        image(into_a_volume(), HERE, NOTHING)


@pytest.mark.parametrize("world", [HERE, PUSHING, CLUSTER])
def test_an_image_that_another_makes_is_refused_by_that_name(world: World) -> None:
    taken = replace(world, rivals=Rivals(image_is_of="first"))
    with pytest.raises(
        TagTaken, match=f"{NAME} .*workspace first makes it.*delete workspace first"
    ):
        image(tuning_workspace(), taken, NOTHING)


def test_a_claim_that_others_write_to_is_told() -> None:
    shared = replace(CLUSTER, rivals=Rivals(claim_is_shared_with=("a", "b")))
    told = image(into_a_volume(), shared, NOTHING)
    assert isinstance(told, Check)
    assert told.result == "warn"
    assert "to whose claim a, b writes too" in told.detail


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, f"{NAME}, pushed with push"),
        (True, f"{NAME}, pushed with push, proved by an upload that was begun and given up"),
        (
            RegistryDenied("a push was tried", "it says no", "give a role"),
            Check(
                name="image",
                result="fail",
                detail=f"{NAME}, pushed with push; a push was tried; it says no",
                fix="give a role",
                reason="RegistryDenied",
            ),
        ),
        (
            RegistryUnavailable("a push was tried", "no answer", "try again"),
            Check(
                name="image",
                result="warn",
                detail=f"{NAME}, pushed with push; a push was tried; no answer",
                fix="try again",
                reason="RegistryUnavailable",
            ),
        ),
        (
            AddressForbidden("10.0.0.1 was to be asked", "it is private", "use a public one"),
            Check(
                name="image",
                result="warn",
                detail=f"{NAME}, pushed with push; 10.0.0.1 was to be asked, and was not asked "
                "from here",
                fix="see that the Secret's user may push there: the pod tries it after the "
                "training",
            ),
        ),
    ],
)
def test_what_the_registry_said_is_told_beside_the_image(found: Any, told: Check | str) -> None:
    assert image(tuning_workspace(), CLUSTER, Findings(may_push=found)) == told


def test_a_registry_that_is_not_asked_says_how_long_a_refusal_holds_a_node_that_is_made() -> None:
    inside = AddressForbidden("10.0.0.1 was to be asked", "it is private", "use a public one")
    for provisioner, is_told in (("aks", True), ("byo", False)):
        found = Findings(may_push=inside, provisioner=provisioner)
        told = image(tuning_workspace(), CLUSTER, found)
        assert isinstance(told, Check)
        assert ("KAITOFLOW_PUSH_DENIED_PATIENCE_S" in told.fix) is is_told


def named(*names: str) -> Workspace:
    """Serve adapters, each pulled with one of the Secrets."""
    adapters = [
        {"source": {"name": f"a-{name}", "image": f"r/{name}:1", "imagePullSecrets": [name]}}
        for name in names
    ]
    preset = {"name": "smollm2-135m-instruct"}
    manifest = {"metadata": {"name": "s"}, "inference": {"preset": preset, "adapters": adapters}}
    return parse_workspace(manifest, source="test")


def test_secrets_that_are_there_are_named() -> None:
    assert secrets(named("one", "two"), CLUSTER) == "one, two"


def test_a_secret_that_a_cluster_has_not_is_refused_with_its_namespace() -> None:
    world = replace(CLUSTER, has_secret=lambda name: name == "one")
    with pytest.raises(SecretNotFound) as refusal:
        secrets(named("one", "two", "three"), world)
    assert str(refusal.value) == (
        "Secret 'two' was asked for; namespace default has none of that name; create it there "
        "(kubectl create secret docker-registry ...)"
    )


def test_here_a_push_secret_is_needed_only_with_push() -> None:
    world = replace(HERE, has_secret=lambda _name: False)
    assert secrets(tuning_workspace(), world) == "push (used with --push)"
    with pytest.raises(SecretNotFound, match="Secret 'push' was asked for; it is neither in the"):
        secrets(tuning_workspace(), replace(world, push=True))
    with pytest.raises(SecretNotFound, match="run docker login"):
        secrets(named("one"), world)
