"""On a machine with several GPUs tuning is a process for each."""

from pathlib import Path

import pytest
import torch

from tasks.contract.training_config import parse_training_config
from tasks.tuning.pod.batches import plan_batches
from tasks.tuning.pod.planning import RunPlan
from tasks.tuning.pod.trainer import sft_arguments


@pytest.mark.filterwarnings("ignore:.*removed in v6:FutureWarning")
def test_the_trainer_never_copies_a_model_to_every_gpu(tmp_path: Path) -> None:
    config = parse_training_config(None, method="lora")
    batches = plan_batches(
        [10] * 20, epochs=1, tokens_per_pass=512, rows_per_pass=None, passes_per_step=None
    )
    plan = RunPlan(
        course={},
        checkpoints_dir=tmp_path,
        checkpoints_kept=2,
        batches=batches,
        device="cuda:0",
        dtype=torch.float32,
        gradient_checkpointing=False,
    )
    assert sft_arguments(config, plan, steps=1).n_gpu == 1
