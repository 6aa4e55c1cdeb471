"""What an adapter follows from, as one digest: the same digest, the same training. Pure.

Machines, the server, labels and annotations that act elsewhere are not in it: to edit those trains
nothing. The bytes behind the dataset's addresses are not known before they are fetched, and count
by their addresses.
"""

import hashlib
import json

from tasks.contract.continuing import CONTINUE_ANNOTATION
from tasks.contract.workspace import BAD_ROWS_ANNOTATION, Workspace

_ANNOTATIONS = (BAD_ROWS_ANNOTATION, CONTINUE_ANNOTATION)


def training_digest(workspace: Workspace, *, base_model: str, config_text: str | None) -> str:
    """The digest of all that the training depends on; empty where nothing is tuned.

    Args: base_model: with its revision. config_text: of training_config.yaml; None = the defaults.
    """
    if not workspace.tuning:
        return ""
    annotations = workspace.metadata.annotations
    depends_on = {
        "tuning": workspace.tuning.model_dump(mode="json"),
        "base_model": base_model,
        "config": config_text,
        "annotations": {name: annotations[name] for name in _ANNOTATIONS if name in annotations},
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
