"""Tuning on several nodes at once: what it will do, and what it cannot. Pure."""

from collections.abc import Sequence

from tasks.contract.artifacts import Check
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.workspace import Workspace
from tasks.estimate import GIB
from tasks.plan.size import Fit, Run
from tasks.resources import MEMORY_ANNOTATION, gpus_asked, least_needed, why_one_gpu


def expect_useful_nodes(workspace: Workspace, run: Run | None) -> None:
    """Nothing, if as many nodes are asked for as are used.

    Raises: InvalidWorkspace.
    """
    count = workspace.resource.count
    if not workspace.preset or count == 1:
        return
    asked = f"resource.count asks for {count} nodes"
    if not workspace.tuning:
        raise InvalidWorkspace(
            asked,
            "a preset's server runs on one, and the others would be paid for and idle",
            "set it to 1, with an instanceType that holds the model",
        )
    if workspace.is_served:
        raise InvalidWorkspace(
            asked,
            "a server of what they tune runs on one, and the others would be paid for and idle",
            'annotate kaito.sh/serve: "false" and serve the image by a Workspace of its own, or '
            "set it to 1",
        )
    if run and run.config and (why := why_one_gpu(run.config)):
        raise InvalidWorkspace(
            asked, why, "leave that setting out of training_config.yaml, or set count to 1"
        )


def together(run: Run, fits: Sequence[Fit], *, dataset_gib: float | None) -> Check | None:
    """How the nodes share the tuning; None where there is one.

    Args: fits: on the kinds of machine that are named.
    """
    workspace, config = run.workspace, run.config
    nodes = workspace.resource.count
    if not workspace.tuning or nodes == 1 or config is None:
        return None
    fit = next((each for each in fits if each.does_fit), None)
    each = fit.processes if fit else max(1, gpus_asked(workspace))
    processes, on_gpu = nodes * each, not run.preset.runs_on_cpu
    needed = least_needed(workspace, run.preset, config, on_gpu=on_gpu, dataset_gib=dataset_gib)[
        MEMORY_ANNOTATION
    ]
    detail = (
        f"{nodes} nodes tune together, a pod each with {_counted(each, 'process', 'es')}: "
        f"{processes} share the rows of a step, each with the whole model; a pod takes at least "
        f"{each * needed / GIB:.1f} GiB of its node's memory, and fetches weights and dataset "
        "itself; if a node is lost, all go on from the last checkpoint"
    )
    rows = (config.rows_per_pass or 0) * config.training.get("gradient_accumulation_steps", 1)
    if 0 < rows < processes:
        return Check(
            name="together",
            result="warn",
            detail=f"{detail}; a step has {_counted(rows, 'row')}: {processes - rows} will idle",
            fix="raise TrainingArguments.gradient_accumulation_steps, or lower resource.count",
        )
    return Check(name="together", result="ok", detail=detail)


def _counted(number: int, thing: str, plural: str = "s") -> str:
    return f"{number} {thing}{'' if number == 1 else plural}"
