"""Run as `python -m tasks.tuning.pod CONFIG.json`."""

import os
import sys

from serving.model.cpus import share_cpus
from tasks.contract.podlog import read_answer, run_program
from tasks.contract.programs.tuning import TuningConfig, TuningResult
from tasks.tuning.pod.meeting import Nodes
from tasks.tuning.pod.processes import is_rank
from tasks.tuning.pod.together import train_together
from tasks.tuning.pod.train import main


def tune(config: TuningConfig) -> TuningResult:
    """What the run came to; metrics.json holds the same, and more."""
    if max(config.processes, config.nodes) > 1 and not is_rank():
        command = [sys.executable, "-m", "tasks.tuning.pod", sys.argv[1]]
        nodes = None
        if config.nodes > 1:
            nodes = Nodes.of_environment(config.nodes, patience_s=config.nodes_patience_s)
        answer = train_together(command, processes=config.processes, nodes=nodes)
        return read_answer(TuningResult, answer)
    return read_answer(TuningResult, main(config))


if __name__ == "__main__":
    # Read when torch loads its OpenMP: how long a thread spins while it waits for the others. The
    # default, 300 000 rounds, all but stops a run whose cores are shared: less than 30 tokens/s
    # beside one busy process, against 110 with 2000, which costs 5 % on cores of its own (SmolLM2,
    # QLoRA, 2 cores).
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    share_cpus()
    sys.exit(run_program(TuningConfig, tune, sys.argv))
