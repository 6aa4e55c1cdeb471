"""Run as `python -m tasks.tuning.pod CONFIG.json`."""

import sys

from tasks.podlog import run_program
from tasks.tuning.pod.config import TuningConfig
from tasks.tuning.pod.train import main

if __name__ == "__main__":
    sys.exit(run_program(TuningConfig, main, sys.argv))
