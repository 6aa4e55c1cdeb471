"""Run as `python -m tasks.image.pod CONFIG.json`: publish an adapter (PushConfig)."""

import sys

from tasks.contract.podlog import run_program
from tasks.contract.programs.image import PushConfig
from tasks.image.pod.push import push_image

if __name__ == "__main__":
    sys.exit(run_program(PushConfig, push_image, sys.argv))
