"""Run as `python -m tasks.dataset.pod CONFIG.json`: prepare a dataset (DatasetConfig)."""

import sys

from tasks.dataset.pod.config import DatasetConfig
from tasks.dataset.pod.prepare import prepare_dataset
from tasks.podlog import run_program

if __name__ == "__main__":
    sys.exit(run_program(DatasetConfig, prepare_dataset, sys.argv))
