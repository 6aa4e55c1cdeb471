"""What `resource` asks for that no machine can give, refused before one is paid for. Pure."""

import re
from collections.abc import Sequence

from tasks.contract.errors import InvalidWorkspace, ModelDoesNotFit, UnknownInstanceType
from tasks.contract.workspace import Partition, Workspace
from tasks.nodes.offers import Offer, offers_of
from tasks.plan.findings import Findings
from tasks.presets import Preset
from tasks.skus import catalogue

# Kinds of machine with GPUs that a catalogue of today does not know yet: Azure's N series, and the
# p and g families of AWS.
_MAY_HAVE_GPU = re.compile(r"standard_n.*|[pg]\d.*", re.IGNORECASE)
_AZURE = re.compile(r"(standard|basic)_\w+", re.IGNORECASE)


def expect_one_node(workspace: Workspace) -> None:
    """Nothing, if as many nodes are asked for as are used.

    Raises: InvalidWorkspace.
    """
    count = workspace.resource.count
    if workspace.preset and count > 1:
        raise InvalidWorkspace(
            f"resource.count asks for {count} nodes",
            "a preset's server runs on one, and the others would be paid for and idle",
            "set it to 1, with an instanceType that holds the model",
        )


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


def expect_machines(workspace: Workspace, preset: Preset | None, findings: Findings) -> None:
    """Nothing, if each machine that may be made can do what it is for.

    Raises: InvalidWorkspace: none is named. UnknownInstanceType: one that is not sold there, or
        that has no GPU for a model that needs one. ModelDoesNotFit: our images run on none.
    """
    if not findings.makes_nodes:
        return
    offers = offers_of(workspace)
    for name in dict.fromkeys(offer.instance_type for offer in offers):
        _expect_machine(name, preset, findings)
    known = [catalogue().get(offer.instance_type.lower()) for offer in offers]
    if preset and all(sku and not sku.runs_our_images for sku in known):
        first = next(sku for sku in known if sku)
        raise ModelDoesNotFit(
            f"{offers[0].instance_type} is to be made",
            first.limits[0].partition("; ")[0],
            "name an instance type with a newer NVIDIA GPU, such as Standard_NC4as_T4_v3",
        )


def _expect_machine(name: str, preset: Preset | None, findings: Findings) -> None:
    sku = catalogue().get(name.lower())
    if findings.provisioner == "aks" and not (sku.cloud == "azure" if sku else _AZURE.match(name)):
        raise UnknownInstanceType(
            f"instance type {name!r} is to be made as an AKS agent pool",
            "Azure has none of that name",
            "name one of Azure's, such as Standard_NC24ads_A100_v4",
        )
    if preset is None or preset.runs_on_cpu or sku or _MAY_HAVE_GPU.fullmatch(name):
        return
    raise UnknownInstanceType(
        f"instance type {name!r} is to be made for {preset.name}, which needs a GPU",
        "it has none that is known",
        "name one with a GPU, such as Standard_NC24ads_A100_v4",
    )
