"""What will serve the Workspace, how it is started, and why. Pure."""

from collections.abc import Sequence

from tasks.config_map import inference_config
from tasks.contract.artifacts import Check
from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.inference_config import InferenceConfig
from tasks.contract.plain_lora import why_not_in_vllm
from tasks.contract.workspace import Workspace
from tasks.engines import RUNTIME_ANNOTATION, Serving, choose_serving
from tasks.nodes.offers import Offer
from tasks.plan import nodes
from tasks.plan.size import Run
from tasks.platform.base import World
from tasks.resources import computes_on_gpu, served_gib
from tasks.settings import settings

_ENGINES = {"vllm": "vLLM", "transformers": "our own engine"}


def engine(workspace: Workspace, world: World, run: Run, offers: Sequence[Offer]) -> Check | str:
    """The engine with its flags, on the first kind of machine that fits, or on this machine.

    Raises: ConfigMapNotFound, InvalidWorkspace, ModelNotSupported, InvalidTuningConfig: as the
    server's pod would.
    """
    config = _config(workspace, world)
    there = _gpus(world, run, offers)
    if there is None:
        # Nodes by their labels: what they have is seen when there is one.
        return "vLLM where the node has a GPU, else our own engine"
    taken, has = there
    chosen = choose_serving(
        workspace,
        run.preset,
        config,
        gpus=taken,
        gpus_there=has,
        on_gpu=computes_on_gpu(taken, settings()),
        has_vllm=world.is_cluster or bool(settings().vllm_program),
    )
    if chosen.engine == "vllm":
        _expect_served(workspace, run, most_rank=config.number("max-lora-rank"))
    if not chosen.notes:
        return _told(chosen)
    return Check(
        name="engine",
        result="warn",
        detail=f"{_told(chosen)}; no effect here: {'; '.join(chosen.notes)}",
        fix="remove what you do not need",
    )


def _expect_served(workspace: Workspace, run: Run, *, most_rank: int | None) -> None:
    """Nothing, if vLLM computes all of the adapter that is tuned.

    Raises: InvalidTuningConfig: it would refuse it, once it was paid for.
    """
    if not workspace.tuning or run.config is None:
        return
    if found := why_not_in_vllm(run.config.lora, most_rank=most_rank):
        raise InvalidTuningConfig(
            "the adapter is to be served by vLLM",
            f"LoraConfig asks for {found}",
            f"tune plain LoRA of a lower rank, or annotate {RUNTIME_ANNOTATION}: transformers",
        )


def _config(workspace: Workspace, world: World) -> InferenceConfig:
    name = workspace.inference.config if workspace.inference else None
    return inference_config(world.config_maps.get(name), name) if name else InferenceConfig()


def _gpus(world: World, run: Run, offers: Sequence[Offer]) -> tuple[int, int] | None:
    """The GPUs that a server takes, and those of its machine; None = not known yet."""
    needed_gib = served_gib(run.preset)
    if world.node is not None:
        return world.node.gpus_for(needed_gib), world.node.gpus
    if not world.is_cluster:
        return 0, 0
    fits = nodes.known_fits(run, offers)
    if not fits:
        return None
    sku = next((fit.sku for fit in fits if fit.does_fit), fits[0].sku)
    fits_one = needed_gib is None or needed_gib <= sku.usable_gib
    return (min(sku.gpus, 1) if fits_one else sku.gpus), sku.gpus


def _told(chosen: Serving) -> str:
    gpus = f", {chosen.gpus} GPU{'s' if chosen.gpus > 1 else ''}" if chosen.gpus else ""
    shared = ""
    if chosen.tensor_parallel > 1:
        shared = f", each layer shared by {chosen.tensor_parallel}"
    flags = f": {chosen.flags_told}" if chosen.flags else ""
    return f"{_ENGINES[chosen.engine]}{gpus}{shared}{flags} ({chosen.why})"
