"""Run as `python -m tasks.dataset.pod CONFIG.json`: prepare a dataset (DatasetConfig)."""

import sys

from tasks.contract.podlog import run_program
from tasks.contract.programs.dataset import DatasetConfig
from tasks.dataset.pod.prepare import prepare_dataset

if __name__ == "__main__":
    sys.exit(run_program(DatasetConfig, prepare_dataset, sys.argv))
