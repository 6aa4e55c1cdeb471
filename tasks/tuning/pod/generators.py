"""What a process draws random numbers from: as it is now, and as it was."""

import random
from typing import Any

import numpy as np
import torch


def generators_now() -> dict[str, Any]:
    """The state of all generators, by the names under which transformers keeps them."""
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - what libraries draw from
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.random.get_rng_state()
    return state


def put_back(state: dict[str, Any]) -> None:
    """Have all generators go on from where they were."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.random.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.random.set_rng_state(state["cuda"])
