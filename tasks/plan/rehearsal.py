"""What a cluster says to all that a Workspace is made into, heard before anything is bought."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from tasks.contract.artifacts import Check, Node, PublishedImage
from tasks.contract.errors import QuotaExceeded, Refused
from tasks.contract.image_reference import parse_reference
from tasks.contract.steps import TUNING
from tasks.contract.words import expect_annotations
from tasks.contract.workspace import Workspace
from tasks.nodes.need import need_of
from tasks.plan.check import from_diagnosis
from tasks.platform.base import Platform, Pod
from tasks.platform.diagnosis import Diagnosis
from tasks.pods import inference_pod, tuning_pod

Rehearsal = Mapping[str, Sequence[Diagnosis]]

_NAME = "cluster rules"
# The image is not there yet, and its digest is all that will be another.
_ANY_DIGEST = f"sha256:{'0' * 64}"


async def rehearse(workspace: Workspace, platform: Platform) -> Rehearsal:
    """What would be refused of each pod, by the pods' names; nothing is made.

    What cannot be described, since the Workspace itself is at fault, is for other checks to tell.
    """
    with suppress(Refused):
        expect_annotations(workspace)
        pods = await _pods(workspace, platform)
        return {pod.name: await platform.rehearse(workspace, pod) for pod in pods}
    return {}


async def _pods(workspace: Workspace, platform: Platform) -> list[Pod]:
    node = Node(name="", cores=1, memory_gib=0, gpus=need_of(workspace).gpus)
    pods, image = [], None
    if workspace.tuning:
        pods.append(await tuning_pod(workspace, node, push=True))
        if name := workspace.tuning.output.image:
            image = PublishedImage(reference=str(parse_reference(name)), digest=_ANY_DIGEST)
    if workspace.is_served:
        address = await platform.server_address(workspace, port=None)
        pods.append(await inference_pod(workspace, node, image, address))
    return pods


def _lacks_room(told: Diagnosis) -> bool:
    return told.reason == QuotaExceeded.__name__


def cluster_rules(rehearsal: Rehearsal, *, is_tuned: bool, makes_nodes: bool) -> list[Check]:
    """A line for each thing that would be refused, or one that nothing would be.

    A pod that has no room yet may wait for it, unless a node is paid for meanwhile.

    Args: is_tuned: whether nothing is tuned, since it was before.
    """
    told = [
        each
        for pod, found in rehearsal.items()
        if not (is_tuned and pod == TUNING)
        for each in found
    ]
    if not told:
        return [Check(name=_NAME, result="ok", detail="a dry run: nothing would be refused")]
    return [
        from_diagnosis(_NAME, each, stops=each.is_final or (makes_nodes and _lacks_room(each)))
        for each in dict.fromkeys(told)
    ]
