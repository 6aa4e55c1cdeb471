"""How much memory and time the run takes, here and on a kind of machine. Pure."""

from dataclasses import dataclass
from math import inf

from tasks.contract.artifacts import Node
from tasks.contract.shapes import ModelShape, TuningShape
from tasks.contract.training_config import TrainingConfig
from tasks.contract.workspace import Workspace
from tasks.estimate import (
    batch_that_fits,
    cpu_operations_per_s,
    gpu_operations_per_s,
    nodes_for_serving,
    tuning_memory_gib,
    tuning_seconds,
)
from tasks.presets import Preset
from tasks.resources import gpus_asked, gpus_to_train, served_gib
from tasks.skus import Sku

# Loading libraries and weights, the report, the push and the server's start, on two cores.
_FIXED_SECONDS = (25.0, 90.0)
_TIME_BAND = (0.7, 2.0)
# A machine of a cloud is made and joins in a few minutes; at the latest when it is given up.
_MACHINE_SECONDS = (180.0, 900.0)
# Speeds of GPUs are from data sheets and usual shares of them (tasks/estimate/time.py).
_GPU_TIME_BAND = (0.5, 2.0)

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What of a run its size follows from.

    config: None = nothing is tuned, or it cannot be read. tokens: of the dataset; None = not known.
    shares_gpus: whether other Workspaces want the GPUs of its machine, too.
    """

    workspace: Workspace
    preset: Preset
    config: TrainingConfig | None
    tokens: int | None = None
    shares_gpus: bool = False

    @property
    def shape(self) -> ModelShape | None:
        """The model's; None where not even its size is known."""
        return self.preset.likely_shape

    @property
    def trained_tokens(self) -> int | None:
        """Tokens of all epochs."""
        if not (self.tokens and self.config):
            return None
        return round(self.tokens * float(self.config.training["num_train_epochs"]))


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A run on one kind of machine.

    peak_gib: of the GPUs that hold the model together; None = the model's size is not known.
    gpus: that hold it: one, or all where a server needs them.
    processes: that tune together, each with the whole model on a GPU of its own.
    batch: the rows of one pass that fit; None = nothing is tuned.
    nodes: of that kind that hold the model; None = no number of them does. A server of ours runs on
        one, so it fits where that is 1.
    """

    sku: Sku
    peak_gib: float | None
    batch: TuningShape | None = None
    nodes: int | None = 1
    gpus: int = 1
    processes: int = 1
    does_fit: bool = True

    @property
    def available_gib(self) -> float:
        """The memory of the GPUs that hold the model together."""
        return self.gpus * self.sku.usable_gib


def memory_here_gib(run: Run, node: Node | None) -> float | None:
    """The peak, of the batch that the trainer will choose there; None where it is not known.

    Args: node: None = not known; then the least that the run can do with.
    """
    shape, config = run.shape, run.config
    if not run.workspace.tuning or not (shape and config):
        return served_gib(run.preset)
    if node is None:
        return tuning_memory_gib(shape, config.least_shape(on_gpu=not run.preset.runs_on_cpu))
    wanted = config.tuning_shape(compute_bytes=None if node.has_bf16 else 4)
    found = _batch(shape, config, wanted, available_gib=node.memory_gib)
    return tuning_memory_gib(shape, found or wanted)


def seconds_here(run: Run, node: Node | None) -> Range | None:
    """The seconds from the start to the answer on this machine; None where it cannot be said."""
    if not run.workspace.tuning:
        return _FIXED_SECONDS if node else None
    tokens, parameters = run.trained_tokens, run.preset.parameters
    if not (tokens and parameters and node):
        return None
    training_s = tuning_seconds(
        parameters=parameters, tokens=tokens, operations_per_s=cpu_operations_per_s(node.cores)
    )
    return _band(training_s, _TIME_BAND, _FIXED_SECONDS)


def fit_on(run: Run, sku: Sku) -> Fit:
    """How the run fits a kind of machine."""
    shape, config = run.shape, run.config
    if not run.workspace.tuning:
        return _served_on(run, sku)
    if not (shape and config):
        return Fit(sku=sku, peak_gib=None)
    processes = gpus_to_train(run.workspace, config, there=sku.gpus, are_shared=run.shares_gpus)
    found = _batch(shape, config, config.tuning_shape(on_gpu=True), available_gib=sku.usable_gib)
    batch = found or config.least_shape(on_gpu=True)
    return Fit(
        sku=sku,
        peak_gib=tuning_memory_gib(shape, batch),
        batch=batch,
        processes=processes,
        does_fit=found is not None and sku.gpus >= gpus_asked(run.workspace),
    )


def _served_on(run: Run, sku: Sku) -> Fit:
    preset = run.preset
    peak_gib = served_gib(preset)
    if preset.size_gib is None:
        return Fit(sku=sku, peak_gib=peak_gib)
    nodes = nodes_for_serving(
        sku, weights_gib=preset.size_gib, kv_bytes_per_token=preset.kv_bytes_per_token or 0
    )
    gpus = 1 if peak_gib and peak_gib <= sku.usable_gib else sku.gpus
    return Fit(sku=sku, peak_gib=peak_gib, nodes=nodes, gpus=gpus, does_fit=nodes == 1)


def serving_lacks_gib(run: Run, sku: Sku) -> float | None:
    """What a server of a tuned model needs beyond what the machine has; None = it fits.

    It serves the base model's weights as they are, also where they were tuned in 4 bits.
    """
    needed_gib = served_gib(run.preset)
    if not (run.workspace.tuning and run.workspace.is_served) or needed_gib is None:
        return None
    lack_gib = needed_gib - sku.usable_gpu_memory_gib
    return lack_gib if lack_gib > 0 else None


def seconds_on(run: Run, fit: Fit, *, is_made: bool) -> Range | None:
    """The seconds from the claim to the published adapter; None where it cannot be said.

    Args: is_made: the machine is made first.
    """
    tokens, parameters, config = run.trained_tokens, run.preset.parameters, run.config
    if not (tokens and parameters and config and fit.batch):
        return None
    speed = gpu_operations_per_s(fit.sku, quantized=config.is_quantized)
    if speed is None:
        return None
    training_s = tuning_seconds(
        parameters=parameters,
        tokens=tokens,
        operations_per_s=speed * fit.processes * run.workspace.resource.count,
        gradient_checkpointing=fit.batch.gradient_checkpointing,
    )
    low, high = _band(training_s, _GPU_TIME_BAND, _FIXED_SECONDS)
    return (low + _MACHINE_SECONDS[0], high + _MACHINE_SECONDS[1]) if is_made else (low, high)


def _band(seconds: float, band: Range, fixed: Range) -> Range:
    return (fixed[0] + seconds * band[0], fixed[1] + seconds * band[1])


def _batch(
    shape: ModelShape, config: TrainingConfig, wanted: TuningShape, *, available_gib: float = inf
) -> TuningShape | None:
    return batch_that_fits(
        shape,
        wanted,
        available_gib=available_gib,
        fixed_rows=config.rows_per_pass is not None,
        checkpointing=config.gradient_checkpointing,
    )
