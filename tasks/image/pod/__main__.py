"""Run as `python -m tasks.image.pod CONFIG.json`: publish an adapter (PushConfig)."""

import sys

from tasks.image.pod.config import PushConfig
from tasks.image.pod.push import push_image
from tasks.podlog import run_program

if __name__ == "__main__":
    sys.exit(run_program(PushConfig, push_image, sys.argv))
