"""Which engine serves a Workspace, how it is started, and why. Pure.

vLLM where GPUs serve and it has the model, our own engine on CPUs and for what vLLM has not; what a
person writes (`kaito.sh/runtime`) goes before both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tasks.contract.errors import InvalidWorkspace, ModelNotSupported
from tasks.contract.inference_config import INFERENCE_CONFIG_KEY, Flags, InferenceConfig
from tasks.contract.workspace import Workspace
from tasks.presets import Preset

Engine = Literal["transformers", "vllm"]

RUNTIME_ANNOTATION = "kaito.sh/runtime"
PERFORMANCE_MODE_ANNOTATION = "kaito.sh/performance-mode"
SPECULATION_ANNOTATION = "kaito.sh/enable-speculative-decoding"
# What is told where the other engine serves; each by what asks for it.
_OF_VLLM_ALONE = {
    PERFORMANCE_MODE_ANNOTATION: "it is a flag of vLLM",
    SPECULATION_ANNOTATION: "only vLLM guesses tokens ahead",
}

# KAITO's own: of models that bring layers for it, and of all others.
_MTP = {"method": "mtp", "num_speculative_tokens": 1}
_NGRAM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}
_SPECULATES = ("speculative-config", "spec-method", "spec-model", "spec-tokens")
_GPU_FLAGS = ("tensor-parallel-size", "pipeline-parallel-size")
_ALL_THAT_FITS = ("auto", "-1")
# Adapters of one batch where nothing else is said: what serves, a candidate, and two more.
_MOST_LORAS = 4
_CONCURRENCY: Mapping[Engine, int] = {"transformers": 16, "vllm": 256}


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a Workspace is served.

    why: the engine, in a few words. gpus: that its pod takes; flags: of vLLM's, beyond those that
    follow from the rest. tensor_parallel: the GPUs that hold the model together.
    max_loras: adapters in one step; 0 = it can have none. notes: what does nothing, and why.
    """

    engine: Engine
    why: str
    gpus: int
    tensor_parallel: int = 1
    max_loras: int = 0
    flags: Flags = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def flags_told(self) -> str:
        """The flags as a command line has them."""
        return " ".join(
            f"--{name}" if value is None else f"--{name} {value}"
            for name, value in self.flags.items()
        )


def choose_serving(
    workspace: Workspace,
    preset: Preset,
    config: InferenceConfig,
    *,
    gpus: int,
    gpus_there: int,
    on_gpu: bool,
    has_vllm: bool,
) -> Serving:
    """The engine that serves the Workspace, and how.

    Args: gpus: that the model takes by its size. gpus_there: of the node, for this Workspace.
    on_gpu: whether it computes on them. has_vllm: whether vLLM is there to be started.
    Raises: InvalidWorkspace, ModelNotSupported: what is asked for cannot be.
    """
    engine, why = _engine(workspace, preset, on_gpu=on_gpu, has_vllm=has_vllm)
    if engine == "transformers":
        return Serving(engine=engine, why=why, gpus=gpus, notes=tuple(_without_vllm(workspace)))
    flags = _flags(workspace, preset, config)
    tensor_parallel = _tensor_parallel(preset, config, gpus=gpus)
    pipelines = config.number("pipeline-parallel-size") or 1
    taken = tensor_parallel * pipelines if gpus else 0
    if taken > gpus_there:
        raise InvalidWorkspace(
            f"{INFERENCE_CONFIG_KEY} spreads the model over {taken} GPUs",
            f"the node has {gpus_there}",
            f"lower {' or '.join(_GPU_FLAGS)}, or choose a machine with more GPUs",
        )
    _expect_context(preset, config)
    adapts = not preset.why_no_adapters("vllm")
    return Serving(
        engine=engine,
        why=why,
        gpus=taken,
        tensor_parallel=tensor_parallel,
        max_loras=(config.number("max-loras") or _MOST_LORAS) if adapts else 0,
        flags=flags,
        notes=config.notes,
    )


def concurrency(engine: Engine, asked: int | None) -> int:
    """How many continuations are worked at together; asked: None = as the engine does well."""
    return asked or _CONCURRENCY[engine]


def engines_asked(workspace: Workspace, *, has_vllm: bool) -> tuple[Engine, ...]:
    """The engines of which one has to be able to serve the Workspace's model."""
    runtime = workspace.metadata.annotations.get(RUNTIME_ANNOTATION)
    if runtime == "vllm":
        return ("vllm",)
    if runtime == "transformers":
        return ("transformers",)
    return ("transformers", "vllm") if has_vllm else ("transformers",)


def _engine(
    workspace: Workspace, preset: Preset, *, on_gpu: bool, has_vllm: bool
) -> tuple[Engine, str]:
    asked = workspace.metadata.annotations.get(RUNTIME_ANNOTATION)
    inference = workspace.inference
    adapts = workspace.tuning is not None or bool(inference and inference.adapters)
    no_vllm = _why_no_vllm(preset, adapts=adapts, on_gpu=on_gpu, has_vllm=has_vllm)
    if asked == "vllm":
        if no_vllm:
            raise ModelNotSupported(
                f"annotation {RUNTIME_ANNOTATION} is 'vllm'",
                no_vllm,
                "remove the annotation, or choose what vLLM can serve",
            )
        return "vllm", f"as {RUNTIME_ANNOTATION} asks"
    if asked == "transformers" or no_vllm:
        why = f"as {RUNTIME_ANNOTATION} asks" if asked else no_vllm
        if refused := preset.why_not_served("transformers"):
            raise ModelNotSupported(
                f"{preset.model} is to be served by our own engine, {why}",
                refused,
                "choose a model that it can serve, or a machine with a GPU, which vLLM serves on",
            )
        return "transformers", why
    return "vllm", "a GPU serves, and vLLM has the architecture"


def _why_no_vllm(preset: Preset, *, adapts: bool, on_gpu: bool, has_vllm: bool) -> str:
    """Why vLLM does not serve it; empty = it does. adapts: whether it brings adapters."""
    if not has_vllm:
        return "vLLM is not on this machine (KAITOFLOW_VLLM_PROGRAM names it)"
    if not on_gpu:
        return "the CPU serves"
    if told := preset.why_not_served("vllm"):
        return told
    return preset.why_no_adapters("vllm") if adapts else ""


def _without_vllm(workspace: Workspace) -> list[str]:
    """What is asked of vLLM, where another engine serves."""
    told = [
        f"annotation {name}: {why}, and our own engine serves"
        for name, why in _OF_VLLM_ALONE.items()
        if name in workspace.metadata.annotations
    ]
    if workspace.inference and workspace.inference.config:
        told.append("inference.config: it holds flags of vLLM, and our own engine serves")
    return told


def _flags(workspace: Workspace, preset: Preset, config: InferenceConfig) -> Flags:
    """Flags that words of the Workspace stand for, and above them those of its ConfigMap."""
    annotations, flags = workspace.metadata.annotations, dict[str, str | None]()
    if mode := annotations.get(PERFORMANCE_MODE_ANNOTATION):
        flags["performance-mode"] = mode
    if annotations.get(SPECULATION_ANNOTATION) == "true" and not any(
        flag.partition(".")[0] in _SPECULATES for flag in config.flags
    ):
        flags["speculative-config"] = json.dumps(_MTP if preset.predicts_ahead else _NGRAM)
    of_the_pod = {"tensor-parallel-size", "max-loras"}
    return flags | {name: each for name, each in config.flags.items() if name not in of_the_pod}


def _tensor_parallel(preset: Preset, config: InferenceConfig, *, gpus: int) -> int:
    """The GPUs that share each layer: those of the pod, if its heads can be shared among them."""
    if asked := config.number("tensor-parallel-size"):
        return asked
    among = max(1, gpus // (config.number("pipeline-parallel-size") or 1))
    heads = preset.shape.heads if preset.shape else None
    return next(each for each in range(among, 0, -1) if not heads or heads % each == 0)


def _expect_context(preset: Preset, config: InferenceConfig) -> None:
    """Nothing, if the context that is asked for is one that the model has.

    Raises: InvalidWorkspace.
    """
    if config.flags.get("max-model-len") in _ALL_THAT_FITS:
        return
    asked, most = config.number("max-model-len"), preset.context_tokens
    if asked is not None and most is not None and asked > most:
        raise InvalidWorkspace(
            f"{INFERENCE_CONFIG_KEY} sets max-model-len to {asked}",
            f"{preset.model} has a context of {most}",
            f"set {most} at most, or leave it out to have what fits",
        )
