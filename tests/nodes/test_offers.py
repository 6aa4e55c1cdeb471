"""Which machines a Workspace would take follows from its instance type and its annotations."""

from typing import Any

import pytest

from tasks.contract.errors import InstanceTypeMissing, InvalidWorkspace
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.nodes.offers import Offer, offers_of
from tests.builders import tuning_manifest

A100, T4 = "Standard_NC24ads_A100_v4", "Standard_NC4as_T4_v3"
OURS, KAITOS = "kaitoflow.io/capacity-types", "kaito.sh/capacity-type"


def wanting(annotations: dict[str, str], instance_type: str = A100) -> Workspace:
    manifest: dict[str, Any] = tuning_manifest()
    manifest["metadata"] |= {"annotations": annotations}
    manifest["resource"] = {"instanceType": instance_type} if instance_type else {}
    return parse_workspace(manifest, source="test")


def ways(annotations: dict[str, str]) -> list[str]:
    return [offer.capacity_type for offer in offers_of(wanting(annotations))]


def test_without_a_word_a_machine_is_paid_for_on_demand() -> None:
    assert offers_of(wanting({})) == (Offer(instance_type=A100),)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({KAITOS: "spot"}, ["spot"]),
        ({KAITOS: "on-demand"}, ["on-demand"]),
        ({OURS: "spot, on-demand"}, ["spot", "on-demand"]),
        ({OURS: "on-demand", KAITOS: "spot"}, ["on-demand"]),
        ({OURS: "spot,spot"}, ["spot"]),
    ],
)
def test_how_to_pay_is_ours_to_say_or_kaitos(
    annotations: dict[str, str], expected: list[str]
) -> None:
    assert ways(annotations) == expected


@pytest.mark.parametrize("annotation", [OURS, KAITOS])
def test_a_way_to_pay_that_there_is_not_is_refused_by_its_annotations_name(annotation: str) -> None:
    with pytest.raises(InvalidWorkspace, match=f"annotation {annotation} asks for 'reserved'"):
        ways({annotation: "reserved"})


def test_each_instance_type_is_offered_in_each_way_the_named_one_first() -> None:
    annotations = {"kaitoflow.io/instance-types": f"{T4}, {A100}", OURS: "spot,on-demand"}
    found = [(o.instance_type, o.capacity_type) for o in offers_of(wanting(annotations))]
    assert found == [(A100, "spot"), (A100, "on-demand"), (T4, "spot"), (T4, "on-demand")]


def test_the_annotation_alone_may_name_instance_types() -> None:
    annotations = {"kaitoflow.io/instance-types": T4}
    assert [o.instance_type for o in offers_of(wanting(annotations, ""))] == [T4]
    with pytest.raises(InstanceTypeMissing, match="instanceType is empty"):
        offers_of(wanting({}, ""))


def test_a_price_bounds_spot_machines_alone() -> None:
    annotations = {"kaitoflow.io/spot-max-price": "1.25", OURS: "spot,on-demand"}
    assert [offer.max_price for offer in offers_of(wanting(annotations))] == [1.25, None]


@pytest.mark.parametrize("price", ["much", "0", "-1", "inf", "nan"])
def test_what_is_no_price_is_refused(price: str) -> None:
    with pytest.raises(InvalidWorkspace, match="that is no price"):
        offers_of(wanting({"kaitoflow.io/spot-max-price": price}))


def test_an_offer_reads_as_a_person_would_say_it() -> None:
    zoned = offers_of(wanting({KAITOS: "spot", "kaitoflow.io/zones": "1, 2"}))
    assert [*map(str, zoned)] == [f"spot {A100} in zone 1 or 2"]
    assert str(Offer(instance_type=T4)) == T4
