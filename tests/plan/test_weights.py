"""The plan's line on a base model that comes from a registry."""

import pytest

from tasks.contract.errors import AddressForbidden, RegistryUnavailable, WeightsUnavailable
from tasks.plan.findings import WeightsSeen
from tasks.plan.weights import weights

IMAGE = "registry.example.com/models/qwen/qwen3-8b:main"


def test_an_image_that_is_there_is_told_by_its_digest() -> None:
    assert weights(WeightsSeen(image=IMAGE, digest="sha256:5f")) == f"{IMAGE}@sha256:5f"


def test_an_image_that_is_not_there_is_refused_with_how_to_push_it() -> None:
    with pytest.raises(WeightsUnavailable) as refused:
        weights(WeightsSeen(image=IMAGE, digest=""))
    assert "kaitoflow models push" in refused.value.fix


def test_a_registry_that_wants_a_login_first_is_left_to_the_pod() -> None:
    assert "without a login" in str(weights(WeightsSeen(image=IMAGE, digest=None)))


@pytest.mark.parametrize("kind", [AddressForbidden, RegistryUnavailable])
def test_a_registry_that_cannot_be_asked_from_here_stops_nothing(
    kind: type[AddressForbidden | RegistryUnavailable],
) -> None:
    check = weights(kind("it was asked", "it lies inside", "look"))
    assert not isinstance(check, str)
    assert (check.name, check.result) == ("weights", "warn")
