"""A machine with several GPUs: a server takes one where it can, tuning a process for each."""

from pathlib import Path

import pytest
import torch

from tasks.contract.artifacts import Node
from tasks.contract.training_config import parse_training_config
from tasks.tuning.pod.batches import plan_batches
from tasks.tuning.pod.trainer import RunPlan, sft_arguments

EIGHT = Node(name="n", cores=96, memory_gib=900, gpus=8, gpu_memory_gib=79.2)


@pytest.mark.parametrize(
    ("node", "needed_gib", "gpus"),
    [
        (EIGHT, 20.0, 1),
        (EIGHT, 79.2, 1),
        (EIGHT, 131.0, 8),
        (EIGHT, None, 8),
        (EIGHT.model_copy(update={"gpu_memory_gib": None}), 20.0, 8),
        (EIGHT.with_gpus(4), 20.0, 4),
        (EIGHT.model_copy(update={"gpus": 0}), 1.0, 0),
    ],
    ids=["fits", "just fits", "spread", "need unknown", "card unknown", "held", "none"],
)
def test_a_server_takes_one_gpu_where_that_is_known_to_be_enough(
    node: Node, needed_gib: float | None, gpus: int
) -> None:
    assert node.gpus_for(needed_gib) == gpus


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
