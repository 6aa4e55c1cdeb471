"""What `resource` asks for that no machine can give, refused before one is paid for. Pure."""

import re
from collections.abc import Iterator, Sequence

from tasks.contract.artifacts import Check
from tasks.contract.errors import InvalidWorkspace, ModelDoesNotFit, UnknownInstanceType
from tasks.contract.quantity import quantity
from tasks.contract.workspace import Partition, Workspace
from tasks.nodes.need import BYPASS_ANNOTATION, gpus_needed
from tasks.nodes.offers import Offer, offers_of
from tasks.plan.findings import Findings
from tasks.plan.nodes import cheapest_that_fits
from tasks.plan.size import Run
from tasks.resources import asked_by, least_needed
from tasks.skus import catalogue, near_names

_AWS = re.compile(r"[a-z][a-z0-9-]*[.][a-z0-9-]+", re.IGNORECASE)
_AZURE = re.compile(r"(standard|basic)_\w+", re.IGNORECASE)


def expect_whole_gpus(workspace: Workspace, offers: Sequence[Offer]) -> None:
    """Nothing, if the share of GPUs that is asked for is what a pod gets: all of its node.

    Raises: InvalidWorkspace.
    """
    partition = workspace.resource.partition
    if partition is None or partition.count in _gpus(offers):
        return
    raise InvalidWorkspace(
        f"resource.partition asks for {_asked(partition)}",
        "a pod gets all GPUs of its node, whole",
        "remove partition, and name an instanceType with as little as you need",
    )


def _gpus(offers: Sequence[Offer]) -> set[int]:
    """How many GPUs every kind of machine that is named has; empty where that is not one number."""
    known = catalogue()
    named = [known.get(offer.instance_type.lower()) for offer in offers]
    counts = {sku.gpus if sku else 0 for sku in named}
    return counts if len(counts) == 1 else set()


def _asked(partition: Partition) -> str:
    return f"a slice {partition.profile}" if partition.profile else f"{partition.count} GPUs"


def expect_sold(workspace: Workspace, run: Run | None, findings: Findings) -> None:
    """Nothing, if the cloud in which machines are to be made may have each one that is named.

    Raises: InstanceTypeMissing: none is named. UnknownInstanceType: it is another cloud's.
    """
    if not findings.makes_nodes:
        return
    for offer in offers_of(workspace):
        name = offer.instance_type
        if not _may_be_sold(name, findings):
            whose = "that is AWS's name, and " if _AWS.fullmatch(name) else ""
            raise UnknownInstanceType(
                f"instance type {name!r} is to be made as an AKS agent pool",
                f"{whose}Azure has none of that name",
                f"name one of Azure's, such as {_one_that_fits(run, findings)}",
            )


def _may_be_sold(name: str, findings: Findings) -> bool:
    sku = catalogue().get(name.lower())
    is_azure = sku.cloud == "azure" if sku else bool(_AZURE.match(name))
    return is_azure or findings.provisioner != "aks"


def expect_machines(
    workspace: Workspace, offers: Sequence[Offer], run: Run | None, findings: Findings
) -> None:
    """Nothing, if each machine that may be made can do what it is for.

    Raises: UnknownInstanceType: one that has no GPU, or may have none, for what needs one.
        ModelDoesNotFit: our images run on none of them.
    """
    if not findings.makes_nodes or (workspace.preset and run is None):
        return
    names = dict.fromkeys(offer.instance_type for offer in offers)
    if gpus_needed(workspace):
        for name in names:
            if _may_be_sold(name, findings):
                _expect_gpu(name, run, findings)
    known = [catalogue().get(name.lower()) for name in names]
    first = next((sku for sku in known if sku), None)
    if run and first and all(sku and not sku.runs_our_images for sku in known):
        raise ModelDoesNotFit(
            f"{offers[0].instance_type} is to be made",
            first.limits[0].partition("; ")[0],
            "name an instance type with a newer NVIDIA GPU, such as Standard_NC4as_T4_v3",
        )


def _expect_gpu(name: str, run: Run | None, findings: Findings) -> None:
    """Refuse a machine that is in no catalogue: bought in vain, each costs until its deadline."""
    if name.lower() in catalogue():
        return
    bypass = f"or annotate {BYPASS_ANNOTATION}, if it has an NVIDIA GPU"
    near = near_names(name)
    raise UnknownInstanceType(
        f"instance type {name!r} is to be made for {run.preset.name if run else 'pods'} on a GPU",
        "no machine with a GPU is known by that name",
        f"{f'did you mean {near}? ' if near else ''}name one that is known, such as "
        f"{_one_that_fits(run, findings)}, {bypass}",
    )


def _one_that_fits(run: Run | None, findings: Findings) -> str:
    cloud = "azure" if findings.provisioner == "aks" else None
    cheapest = cheapest_that_fits(run, cloud, findings) if run else None
    return f"{cheapest.name}, the cheapest that fits" if cheapest else "Standard_NC24ads_A100_v4"


def too_little(workspace: Workspace, run: Run, *, dataset_gib: float | None) -> Iterator[Check]:
    """A line for each amount that is asked for by annotation and is less than the pods need."""
    on_gpu = gpus_needed(workspace) > 0
    needed = least_needed(workspace, run.preset, run.config, on_gpu=on_gpu, dataset_gib=dataset_gib)
    for annotation, needed_bytes in needed.items():
        asked = asked_by(workspace, annotation)
        if asked is None or asked >= needed_bytes:
            continue
        yield Check(
            name="resource",
            result="warn",
            detail=f"annotation {annotation} asks for {quantity(asked)}; the pods need about "
            f"{quantity(needed_bytes)}",
            fix="ask for more, or remove it: what is asked for then follows from the model",
        )
