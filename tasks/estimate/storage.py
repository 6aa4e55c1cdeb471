"""How much disk a run takes."""

from tasks.estimate.memory import GIB

# Weight and AdamW's two moments in 32 bit; kept twice: the newest checkpoint and the one before.
_CHECKPOINT_BYTES, _CHECKPOINTS = 12, 2
# The smallest of a cloud's managed disks: 25 MB/s (Azure P4), before its burst.
_SLOW_DISK_BYTES_PER_S = 25e6
# What a registry takes of one client, of a small machine's network.
_UPLOAD_BYTES_PER_S = 25e6
# The adapter once as a folder and once as an image's layer, in 32 bit.
_PUBLISHED_BYTES = 2 * 4
# Rows are kept as they came and as they are trained on.
_DATASET_COPIES = 2
# Logs, Prefect's history, the tokenizer.
_SPARE_GIB = 1.0


def checkpoint_seconds(trainable_parameters: int) -> float:
    """How long a checkpoint of the adapter and its optimiser takes on a slow disk."""
    return trainable_parameters * _CHECKPOINT_BYTES / _SLOW_DISK_BYTES_PER_S


def checkpoint_upload_seconds(trainable_parameters: int) -> float:
    """How long one takes on its way to a registry."""
    return trainable_parameters * _CHECKPOINT_BYTES / _UPLOAD_BYTES_PER_S


def disk_gib(
    *, weights_gib: float, trainable_parameters: int = 0, dataset_gib: float = 0.0
) -> float:
    """Disk of a run: weights, and of a tuning run checkpoints, the published adapter and rows."""
    adapter = trainable_parameters * (_CHECKPOINT_BYTES * _CHECKPOINTS + _PUBLISHED_BYTES) / GIB
    return weights_gib + adapter + dataset_gib * _DATASET_COPIES + _SPARE_GIB
