"""The pod of a candidate: it is tuned, published, and measured beside what serves, all in one.

Described whole before it starts, as every pod: the rows that the dataset's and the trainer's
programs set aside are the measurement's, without anybody who carries them from pod to pod.
"""

from dataclasses import replace
from pathlib import Path

from tasks.contract.artifacts import Node, PublishedImage
from tasks.contract.gate import GATE_ANNOTATION, Gate, parse_gate
from tasks.contract.gate_command import GateCommand, environment_of, gate_command_of
from tasks.contract.judge import judge_of
from tasks.contract.programs.evaluation import CommandConfig, EvaluationConfig
from tasks.contract.programs.image import PullConfig, PushConfig
from tasks.contract.programs.tuning import EVALUATION_FILE, TuningConfig
from tasks.contract.steps import CANDIDATE, FETCH_SERVING, MEASURE, SCORE, TUNE
from tasks.contract.workspace import Workspace
from tasks.platform.base import Container, Pod
from tasks.platform.current import current_platform
from tasks.pods import tuning_pod
from tasks.settings import settings

# Where the gate wants no more; the interval narrows with their root.
_MEASURED_ROWS = 128


async def candidate_pod(
    workspace: Workspace,
    node: Node,
    *,
    number: int,
    begun_by: str = "",
    serving: PublishedImage | None,
    push: bool,
    dataset_gib: float | None = None,
) -> Pod:
    """The pod that makes the adapter of a number and measures it.

    What serves is fetched before the training, which a registry that is away would else cost.
    Args: begun_by: the run that has begun it, beside whose image none of that tag is written.
    serving: the image of what serves, which is measured too; None = no adapter does.
    push, dataset_gib: as of `tuning_pod`.
    Raises: InvalidWorkspace: gate, judge or command cannot be read; what `tuning_pod` raises.
    """
    tuned = await tuning_pod(workspace, node, push=push, dataset_gib=dataset_gib, candidate=number)
    told = tuned.container(TUNE).config
    assert isinstance(told, TuningConfig)
    folder = told.results_dir / "serving"
    pulls = [await _pull(workspace, serving, folder=folder)] if serving else []
    config = _measurement(told, gate_of(workspace), serving=folder if serving else None)
    if judge := judge_of(workspace.metadata.annotations):
        config = replace(
            config,
            judge=judge,
            judge_key_file=await current_platform().judge_key_file(workspace),
            allow_local_addresses=settings().allow_local_addresses,
        )
    scoring = []
    if command := gate_command_of(workspace.metadata.annotations):
        answers_file = told.results_dir / "answers.jsonl"
        config = replace(config, answers_file=answers_file)
        scoring.append(_scoring(command, config, answers_file=answers_file))
    measurement = Container(name=MEASURE, program="tasks.evaluation.pod", config=config)
    at = tuned.containers.index(tuned.container(TUNE))
    before, (tuner, *after) = tuned.containers[:at], tuned.containers[at:]
    tuner = replace(tuner, config=replace(told, serving=config.serving))
    after = [_own(each, begun_by) for each in after]
    containers = (*before, *pulls, tuner, *after, measurement, *scoring)
    return replace(tuned, name=CANDIDATE, containers=containers)


def _own(container: Container, begun_by: str) -> Container:
    """The same; of a push, one that writes over no other candidate's image."""
    if not isinstance(container.config, PushConfig):
        return container
    return replace(container, config=replace(container.config, candidate_of=begun_by))


def gate_of(workspace: Workspace) -> Gate:
    """What a candidate has to show.

    Raises: InvalidWorkspace.
    """
    return parse_gate(workspace.metadata.annotations.get(GATE_ANNOTATION))


def _measurement(told: TuningConfig, gate: Gate, *, serving: Path | None) -> EvaluationConfig:
    rows = max(_MEASURED_ROWS, gate.rows)
    config = EvaluationConfig(
        weights_dir=told.weights_dir,
        rows_file=told.results_dir / EVALUATION_FILE,
        candidate=told.results_dir / "adapter",
        serving=serving,
        method=told.method,
        training_config=told.training_config,
        max_rows=rows,
        gpus=told.gpus,
    )
    return replace(config, answers=rows) if gate.metric.needs_answers else config


def _scoring(command: GateCommand, measured: EvaluationConfig, *, answers_file: Path) -> Container:
    """The user's own command, behind the measurement and on what that one had."""
    config = CommandConfig(
        image=command.image,
        words=command.words,
        environment=environment_of(
            rows=answers_file,
            weights=measured.weights_dir,
            candidate=measured.candidate,
            serving=measured.serving,
        ),
    )
    return Container(name=SCORE, program="tasks.evaluation.pod.command", config=config)


async def _pull(workspace: Workspace, image: PublishedImage, *, folder: Path) -> Container:
    assert workspace.tuning
    secret = workspace.tuning.output.image_push_secret
    login = await current_platform().docker_config(workspace, secret) if secret else None
    config = PullConfig(
        reference=f"{image.reference}@{image.digest}",
        target_dir=folder,
        layout_dir=image.layout_dir,
        docker_configs=(login,) if login else (),
        insecure=settings().insecure_registries,
        storage_hosts=settings().storage_hosts,
    )
    return Container(name=FETCH_SERVING, program="tasks.image.pod.pull", config=config)
