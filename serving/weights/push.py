"""The program that pushes a model: `python -m serving.weights.push CONFIG.json`.

Its config is a `WeightsPushConfig`; what it sends, the weights program has left whole.
"""

import sys

from serving.weights.image import upload
from serving.weights.marker import read_marker
from tasks.contract.errors import WeightsUnavailable
from tasks.contract.podlog import run_program
from tasks.contract.programs.serving import WeightsPushConfig, WeightsPushResult


def main(config: WeightsPushConfig) -> WeightsPushResult:
    """What the registry has now.

    Raises: WeightsUnavailable: the folder is not whole. As `serving.weights.image.upload`.
    """
    marker = read_marker(config.weights_dir)
    if marker is None or not marker.digests:
        raise WeightsUnavailable(
            f"the model in {config.weights_dir} was to be pushed",
            "its files were not fetched to the end",
            "push it again, which fetches them first",
        )
    return upload(config, marker)


if __name__ == "__main__":
    sys.exit(run_program(WeightsPushConfig, main, sys.argv))
