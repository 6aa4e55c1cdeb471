"""What an adapter's image says of itself, by the names of its manifest's annotations. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from tasks.contract.continuing import shape_of

MODEL_NAME = "sh.kaito.model.name"
CREATED = "org.opencontainers.image.created"
BASE_NAME = "org.opencontainers.image.base.name"
REVISION = "org.opencontainers.image.revision"
BASE_MODEL = "io.kaitoflow.base.model"
BASE_REVISION = "io.kaitoflow.base.revision"
# The hub's commit that the base model's files are of, and one digest of all of them.
BASE_COMMIT = "io.kaitoflow.base.commit"
BASE_FILES = "io.kaitoflow.base.files"
# Of what made the adapter, and the loss on held-out answers before and after, as JSON.
VERSION = "io.kaitoflow.version"
HELD_OUT = "io.kaitoflow.held-out"
DATASET_DIGEST = "io.kaitoflow.dataset.digest"
# The Workspace that made it, and the digest of all that the training depended on: by these its
# adapters are told again where its status was lost.
WORKSPACE_UID = "io.kaitoflow.workspace.uid"
TRAINING = "io.kaitoflow.training"
# Of a candidate's image: the run that has begun it, whoever went on with it.
CANDIDATE_OF = "io.kaitoflow.candidate-of"
CONTINUED_FROM = "io.kaitoflow.continued-from"
CONTINUED_WEIGHTS = "io.kaitoflow.continued-from.weights"
# Rank, layers and scale, as JSON: by it a plan sees what can go on from the adapter.
LORA_SHAPE = "io.kaitoflow.lora"
# What vLLM does not compute of it; not there = it computes all of it, or nothing is known.
NOT_IN_VLLM = "io.kaitoflow.not-in-vllm"


def told_shape(adapter: Mapping[str, Any]) -> str:
    """The text of LORA_SHAPE for what an adapter_config.json says; empty where it says nothing."""
    shape = shape_of(adapter)
    return json.dumps(shape, sort_keys=True) if shape else ""


def adapter_of(annotations: Mapping[str, str]) -> Mapping[str, Any] | None:
    """What annotations tell of their image's adapter, as its adapter_config.json says it.

    None = of its rank and layers they tell nothing that can be read.
    """
    try:
        shape = json.loads(annotations.get(LORA_SHAPE, ""))
    except ValueError:
        return None
    if not isinstance(shape, dict):
        return None
    return shape | {
        "peft_type": "LORA",
        "base_model_name_or_path": annotations.get(BASE_NAME),
        "revision": annotations.get(REVISION),
    }
