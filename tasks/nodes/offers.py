"""Which kinds of machine a Workspace would take, in its order of preference. Pure."""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from tasks.contract.errors import InstanceTypeMissing, InvalidWorkspace
from tasks.contract.workspace import Workspace

CapacityType = Literal["on-demand", "spot"]

INSTANCE_TYPES_ANNOTATION = "kaitoflow.io/instance-types"
CAPACITY_TYPES_ANNOTATION = "kaitoflow.io/capacity-types"
# KAITO's own word, for one of them.
CAPACITY_TYPE_ANNOTATION = "kaito.sh/capacity-type"
MAX_PRICE_ANNOTATION = "kaitoflow.io/spot-max-price"
ZONES_ANNOTATION = "kaitoflow.io/zones"


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One kind of machine.

    zones: of the region, any of them; empty = wherever the cloud likes.
    max_price: of a spot machine, USD per hour; None = up to its on-demand price.
    """

    instance_type: str
    capacity_type: CapacityType = "on-demand"
    zones: tuple[str, ...] = ()
    max_price: float | None = None

    def __str__(self) -> str:
        """Say it as a person would: `spot Standard_NC24ads_A100_v4 in zone 1`."""
        where = f" in zone {' or '.join(self.zones)}" if self.zones else ""
        spot = "spot " if self.capacity_type == "spot" else ""
        return f"{spot}{self.instance_type}{where}"


def offers_of(workspace: Workspace) -> tuple[Offer, ...]:
    """What the Workspace would take, best first: each instance type in each way to pay for it.

    resource.instanceType comes first, then those of the annotation kaitoflow.io/instance-types.
    Raises: InstanceTypeMissing. InvalidWorkspace: an annotation that cannot be read.
    """
    annotations = workspace.metadata.annotations
    first = [workspace.resource.instance_type] if workspace.resource.instance_type else []
    named = [*first, *_listed(annotations.get(INSTANCE_TYPES_ANNOTATION, ""))]
    if not named:
        raise InstanceTypeMissing(
            "a node is to be made for the Workspace",
            "resource.instanceType is empty",
            "name one, such as Standard_NC24ads_A100_v4",
        )
    how = CAPACITY_TYPES_ANNOTATION
    if how not in annotations and CAPACITY_TYPE_ANNOTATION in annotations:
        how = CAPACITY_TYPE_ANNOTATION
    ways = _listed(annotations.get(how, "")) or ["on-demand"]
    zones = tuple(_listed(annotations.get(ZONES_ANNOTATION, "")))
    max_price = _price(annotations.get(MAX_PRICE_ANNOTATION))
    return tuple(
        Offer(
            instance_type=name,
            capacity_type=_capacity_type(way, how),
            zones=zones,
            max_price=max_price if way == "spot" else None,
        )
        for name in dict.fromkeys(named)
        for way in dict.fromkeys(ways)
    )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _capacity_type(text: str, annotation: str) -> CapacityType:
    known = get_args(CapacityType)
    if text not in known:
        raise InvalidWorkspace(
            f"annotation {annotation} asks for {text!r}",
            "there is no such way to pay",
            f"use {' or '.join(known)}, or both with a comma between them",
        )
    return cast("CapacityType", text)


def _price(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        price = float(text)
    except ValueError:
        price = 0.0
    if not 0 < price < float("inf"):
        raise InvalidWorkspace(
            f"annotation {MAX_PRICE_ANNOTATION} asks for {text!r}",
            "that is no price",
            'give USD per hour, such as "1.25"',
        )
    return price
