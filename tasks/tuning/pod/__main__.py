"""Run as `python -m tasks.tuning.pod CONFIG.json`."""

import os
import sys

from tasks.contract.podlog import run_program
from tasks.contract.programs.tuning import TuningConfig
from tasks.tuning.pod.train import main

if __name__ == "__main__":
    # Read when torch loads its OpenMP: how long a thread spins while it waits for the others. The
    # default, 300 000 rounds, all but stops a run whose cores are shared: less than 30 tokens/s
    # beside one busy process, against 110 with 2000, which costs 5 % on cores of its own (SmolLM2,
    # QLoRA, 2 cores).
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    sys.exit(run_program(TuningConfig, main, sys.argv))
