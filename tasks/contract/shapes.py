"""The numbers of a model, and of a tuning run, that memory and time follow from. Pure."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

# Below it a model that is said to be quantised is mostly not, and the memory is another than meant.
LEAST_QUANTIZED_SHARE = 0.5


class ModelShape(BaseModel):
    """The numbers that memory and time follow from.

    kv_hidden: width of keys and of values, all heads together; 0 = as wide as queries.
    tied_embeddings: the output head is the embedding.
    expert_parameters: how many of them are a mixture's experts. These lie in one tensor a layer,
        which is no linear layer: they are not quantised and get no adapter.
    per_layer_embeddings: how many are embeddings of their own for each layer.
    """

    model_config = ConfigDict(frozen=True)

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int = 0
    kv_hidden: int = 0
    tied_embeddings: bool = False
    expert_parameters: int = 0
    per_layer_embeddings: int = 0

    @property
    def linear_parameters(self) -> int:
        """The parameters of linear layers, all but the output head: those that are quantised."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        other = embeddings + self.expert_parameters + self.per_layer_embeddings
        return max(self.parameters - other, 0)

    @property
    def linear_share(self) -> float:
        """Their share of all parameters."""
        return self.linear_parameters / self.parameters


@dataclass(frozen=True, kw_only=True)
class TuningShape:
    """The settings of a tuning run that memory follows from.

    weight_bits: of the frozen linear layers. compute_bytes: of a number in matrix products.
    target_modules: last names of the layers that get an adapter; None = every linear layer.
    rows, row_tokens: of one forward and backward pass, rows padded to the longest.
    """

    weight_bits: Literal[4, 8, 16, 32] = 16
    compute_bytes: Literal[2, 4] = 2
    lora_rank: int = 8
    target_modules: tuple[str, ...] | None = None
    optimizer: str = "adamw_torch"
    rows: int = 1
    row_tokens: int = 1024
    gradient_checkpointing: bool = False
    on_gpu: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of one pass."""
        return self.rows * self.row_tokens
