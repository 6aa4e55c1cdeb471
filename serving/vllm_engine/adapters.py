"""What vLLM can do with an adapter, and the folder that it is given of it.

All is said here, before vLLM is told of it: it would take some and compute something else.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.model.adapters import (
    adapter_config,
    beyond_plain_lora,
    check_adapter,
    weight_shapes,
    weights_digest,
)
from serving.model.blending import blend
from serving.model.layers import Layers
from serving.weights.marker import Marker
from tasks.contract.as_trained import AsTrained
from tasks.contract.errors import AdapterMismatch
from tasks.contract.plain_lora import MOST_RANK, highest_rank, rank_in_vllm
from tasks.contract.programs.serving import AdapterSource

_LAYER = "base_model.model."
_FIX = "or have it served by transformers (kaito.sh/runtime: transformers)"


@dataclass(frozen=True, kw_only=True)
class Held:
    """An adapter that vLLM has.

    name: as vLLM knows it. folder: out of which vLLM may read it again at any time.
    trained: what it answered where it was tuned, if that was kept.
    """

    source: AdapterSource
    name: str
    folder: Path
    digest: str
    trained: AsTrained | None


def name_in_vllm(source: AdapterSource, digest: str) -> str:
    """A name that no other weights have: vLLM keeps what it has read of prompts by that name."""
    return f"{source.name}:{digest[:16]}:{source.strength:g}"


def needed_rank(sources: Iterable[AdapterSource], *, least: int) -> int:
    """The rank that vLLM needs room for. Raises: AdapterMismatch: it has none for one of them."""
    needed = least
    for source in sources:
        own = rank_of(source)
        if rank_in_vllm(own) is None:
            raise AdapterMismatch(
                f"adapter {source.name} was to be served by vLLM",
                f"its rank is {own}, and vLLM has room for {MOST_RANK} at most",
                f"tune it with a lower rank, {_FIX}",
            )
        needed = max(needed, own)
    return rank_in_vllm(needed) or MOST_RANK


def rank_of(source: AdapterSource) -> int:
    """The highest rank of its layers. Raises: AdapterMismatch: its files cannot be read."""
    return highest_rank(adapter_config(source))


def check_for_vllm(
    source: AdapterSource, layers: Layers, *, marker: Marker | None, max_rank: int
) -> None:
    """Nothing when vLLM computes with the adapter what it was tuned to.

    layers: that the base's files tell; where they know none of the adapter's, vLLM names layers
    otherwise than its files, and whether they are there is vLLM's to say.
    Raises: AdapterMismatch.
    """
    if beyond := beyond_plain_lora(source):
        raise AdapterMismatch(
            f"adapter {source.name} was to be served by vLLM",
            f"it has {beyond}, which vLLM does not compute",
            f"tune plain LoRA, {_FIX}",
        )
    own = {key.removeprefix(_LAYER).partition(".lora_")[0] for key in weight_shapes(source)}
    known = layers if any(layer in layers for layer in own) else dict.fromkeys(own, (None, None))
    check_adapter(source, known, marker=marker)
    if (rank := rank_of(source)) > max_rank:
        raise AdapterMismatch(
            f"adapter {source.name} was to be served by vLLM",
            f"its rank is {rank}, and the GPU's memory was laid out for {max_rank}",
            "set max-lora-rank in inference.config, or name it in the Workspace, so that it is"
            " there from the start",
        )


def folder_for_vllm(source: AdapterSource, scratch: Path) -> Path:
    """A folder of what vLLM computes the adapter's answers from: its own, or one with its strength.

    vLLM knows no strength: the weights are written scaled.
    """
    if source.strength == 1.0:
        return source.path
    folder = Path(tempfile.mkdtemp(prefix="strength-", dir=scratch))
    blend([source], folder)
    return folder


def held_of(source: AdapterSource, *, scratch: Path, trained: AsTrained | None) -> Held:
    """What vLLM is to be given of an adapter that was checked."""
    digest = weights_digest(source.path)
    return Held(
        source=source,
        name=name_in_vllm(source, digest),
        folder=folder_for_vllm(source, scratch),
        digest=digest,
        trained=trained,
    )
