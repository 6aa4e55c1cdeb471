"""Run as `python -m tasks.dataset.pod CONFIG.json`: prepare a dataset (DatasetConfig)."""

import sys

from tasks.contract.podlog import read_answer, run_program
from tasks.contract.programs.dataset import DatasetConfig, DatasetReport
from tasks.dataset.pod.prepare import prepare_dataset


def main(config: DatasetConfig) -> DatasetReport:
    """The report as it is told; what only the next start needs stays in the file."""
    return read_answer(DatasetReport, prepare_dataset(config))


if __name__ == "__main__":
    sys.exit(run_program(DatasetConfig, main, sys.argv))
