"""Run as `python -m tasks.evaluation.pod CONFIG.json`."""

import sys

from serving.model.cpus import share_cpus
from tasks.contract.podlog import run_program
from tasks.contract.programs.evaluation import EvaluationConfig
from tasks.evaluation.pod.measure import evaluate

if __name__ == "__main__":
    share_cpus()
    sys.exit(run_program(EvaluationConfig, evaluate, sys.argv))
