"""Run as `python -m tasks.image.pod.pull_all CONFIG.json`: have images' files (PullsConfig).

One container for all, so that a server's pod is the same whichever adapters it begins with.
"""

import sys

from tasks.contract.podlog import run_program
from tasks.contract.programs.image import PullsConfig, PullsResult
from tasks.image.pod.pull import pull_image


def pull_images(config: PullsConfig) -> PullsResult:
    """What was pulled, one after the other; an image that is there already is left as it is."""
    pulled = [pull_image(each) for each in config.images]
    return PullsResult(images=len(pulled), bytes=sum(each.bytes for each in pulled))


if __name__ == "__main__":
    sys.exit(run_program(PullsConfig, pull_images, sys.argv))
