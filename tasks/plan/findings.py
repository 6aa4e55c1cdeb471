"""What others were asked for a plan, and what they said. Plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.contract.errors import KaitoflowError
from tasks.nodes.held_gpus import GpuHolder
from tasks.plan.rehearsal import Rehearsal
from tasks.presets import Preset
from tasks.skus.prices import PriceTable

if TYPE_CHECKING:
    from tasks.nodes.aks.quota import Quotas


@dataclass(frozen=True, kw_only=True)
class DatasetSeen:
    """What servers say of a dataset's files.

    bytes: of each file, in order; None = its server does not say.
    web_pages: addresses at which there is a page for people instead of a file.
    """

    bytes: tuple[int | None, ...]
    web_pages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JudgeSeen:
    """What a judge says of itself to who has no key; models: none = it does not list them."""

    models: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WeightsSeen:
    """What the installation's registry says of the base model to who has no login.

    digest: of the image; "" = there is none. None = it says so to nobody without a login.
    """

    image: str
    digest: str | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Each what was found, the error that a look ended with, or None: it was not looked for.

    evaluation: of the rows that a user has set aside to measure adapters on.
    chat_template: True; one of the settings' own that cannot be used is an error.
    base_model: of a model that is in no catalogue, with what the hub says of its size.
    weights: None where base models come from the hub.
    may_push: True; a registry that says no is an error.
    has_tuned_image: whether what was tuned from the very same is still where it was published.
    start: annotations of the image that the tuning goes on from.
    nodes: the cluster's, as its API server gives them. gpu_holders: of those nodes.
    rehearsal: what the cluster would refuse of what is to be made.
    provisioner: where the installation's nodes come from; None = not known from here.
    unknown_variables: of the environment, that look like settings and are none.
    """

    base_model: Preset | KaitoflowError | None = None
    weights: WeightsSeen | KaitoflowError | None = None
    dataset: DatasetSeen | KaitoflowError | None = None
    evaluation: DatasetSeen | KaitoflowError | None = None
    chat_template: bool | KaitoflowError | None = None
    may_push: bool | KaitoflowError | None = None
    has_tuned_image: bool | KaitoflowError | None = None
    start: Mapping[str, str] | KaitoflowError | None = None
    judge: JudgeSeen | KaitoflowError | None = None
    has_gate_image: bool | KaitoflowError | None = None
    nodes: Sequence[Mapping[str, Any]] | KaitoflowError | None = None
    gpu_holders: Sequence[GpuHolder] | KaitoflowError | None = None
    rehearsal: Rehearsal | KaitoflowError | None = None
    quotas: "Quotas | KaitoflowError | None" = None
    prices: PriceTable | KaitoflowError | None = None
    provisioner: str | None = None
    unknown_variables: tuple[str, ...] = ()

    @property
    def makes_nodes(self) -> bool:
        """Whether nodes are made for Workspaces."""
        return self.provisioner in {"karpenter", "aks"}
