"""The weights program: `python -m serving.weights CONFIG.json` (a `WeightsConfig`)."""

import sys

from serving.weights.fetch import ensure_weights
from tasks.contract.podlog import emit, run_program
from tasks.contract.programs.serving import WeightsConfig, WeightsResult


def main(config: WeightsConfig) -> WeightsResult:
    """The outcome of `ensure_weights`, with progress events on the way."""
    return ensure_weights(config, report=lambda fields: emit("progress", fields))


if __name__ == "__main__":
    sys.exit(run_program(WeightsConfig, main, sys.argv))
