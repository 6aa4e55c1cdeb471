"""Run as `python -m tasks.tuning.pod CONFIG.json`."""

import os
import sys

from tasks.podlog import run_program
from tasks.tuning.pod.config import TuningConfig
from tasks.tuning.pod.train import main

if __name__ == "__main__":
    # Read once, when torch loads its OpenMP. By default its threads wait for each other spinning,
    # which on cores that are shared costs most of the time: 2 threads on 2 cores beside other work
    # train less than 30 tokens/s so, and 100 to 140 when they sleep (SmolLM2, QLoRA).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run_program(TuningConfig, main, sys.argv))
