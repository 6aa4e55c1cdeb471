"""What becomes of a server while its Workspace is tuned again. Pure.

An edit is not to cost what serves: the server goes on, beside the tuning, unless the Workspace lets
it pause. A tuning never waits for the GPU of its own server.
"""

from collections.abc import Sequence

from tasks.contract.artifacts import Check, Swap
from tasks.contract.errors import NoRoomToTune
from tasks.contract.workspace import TUNE_WHILE_SERVING_ANNOTATION, TuneWhileServing, Workspace
from tasks.nodes.held_gpus import GpuHolder, in_the_way
from tasks.nodes.need import need_of
from tasks.nodes.provisioner import NodeNeed
from tasks.nodes.selection import Selection, select_nodes
from tasks.plan.findings import Findings
from tasks.platform.base import World

_NAME = "swap"


def choose(
    wish: TuneWhileServing, *, is_free: bool, would_be_free: bool, makes_nodes: bool
) -> Swap | None:
    """How a served Workspace is tuned again; None = it could only wait for its own server.

    Args: is_free: a node takes the tuning as it is. would_be_free: one would, if the server paused.
    makes_nodes: whether another node can be made.
    """
    if is_free:
        return Swap.BESIDE
    if wish == "pause" and would_be_free:
        return Swap.PAUSE
    if makes_nodes:
        may_pause = wish == "auto" and would_be_free
        return Swap.SECOND_NODE_OR_PAUSE if may_pause else Swap.SECOND_NODE
    if not would_be_free:
        return Swap.BESIDE  # it waits for GPUs that others hold, as any Workspace does
    return Swap.PAUSE if wish == "auto" else None


def swap(
    workspace: Workspace,
    world: World,
    findings: Findings,
    *,
    memory_gib: float | None,
    is_candidate: bool,
) -> Swap | None:
    """How it is tuned again; None where no server is there.

    Args: is_candidate: for the generation that serves, which goes on.
    Raises: NoRoomToTune: it could only wait for its own server. InvalidWorkspace, UnknownPreset.
    """
    wish = workspace.tune_while_serving
    holders = findings.gpu_holders if isinstance(findings.gpu_holders, Sequence) else ()
    servers = [each for each in holders if each.is_of(workspace) and each.is_server]
    if world.served_generation is None and not servers:
        return None
    generations = {each.generation for each in servers}
    is_own = not is_candidate and workspace.metadata.generation in generations
    if world.served_generation is None or is_own:
        wish = "pause"  # nothing answers that would be missed, or could be had without the tuning
    free, otherwise = (
        _selection(
            workspace,
            holders,
            findings,
            need_of(workspace, memory_gib=memory_gib, server_ends=ends, is_candidate=is_candidate),
        )
        for ends in (False, True)
    )
    chosen = choose(
        wish,
        is_free=free.is_enough and not is_own,
        would_be_free=otherwise.is_enough,
        makes_nodes=findings.makes_nodes,
    )
    if chosen is None:
        raise NoRoomToTune(
            f"{_named(workspace, is_candidate=is_candidate)} is to be tuned while generation "
            f"{world.served_generation} serves",
            free.lack.found,
            f'annotate {TUNE_WHILE_SERVING_ANNOTATION}: "pause", so that the server pauses '
            "meanwhile, or add a node with a free GPU",
        )
    return chosen


def check(chosen: Swap, workspace: Workspace, world: World, *, is_candidate: bool) -> Check:
    """The line of a plan that says what becomes of the server."""
    newer = _named(workspace, is_candidate=is_candidate)
    older = f"generation {world.served_generation}" if world.served_generation else "the server"
    told = {
        Swap.BESIDE: f"{older} serves on while {newer} is tuned beside it",
        Swap.SECOND_NODE: f"{older} serves on while {newer} is tuned on a second node, which is "
        "given back afterwards",
        Swap.SECOND_NODE_OR_PAUSE: f"{older} serves on while {newer} is tuned on a second node; "
        "it pauses where none is to be had",
        Swap.PAUSE: f"{older} pauses while {newer} is tuned on its GPU, and comes back with the "
        "new adapter, or with the old one if that fails",
    }
    return Check(name=_NAME, result="ok", detail=told[chosen])


def _named(workspace: Workspace, *, is_candidate: bool) -> str:
    """What is to be tuned; a file is no generation yet."""
    if is_candidate:
        return "a candidate for it"
    generation = workspace.metadata.generation
    return f"generation {generation}" if generation else "its next generation"


def _selection(
    workspace: Workspace,
    holders: Sequence[GpuHolder],
    findings: Findings,
    need: NodeNeed,
) -> Selection:
    nodes = findings.nodes if isinstance(findings.nodes, Sequence) else ()
    return select_nodes(need, nodes, in_the_way(holders, workspace, need))
