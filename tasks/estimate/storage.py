"""How much disk a run takes."""

from tasks.estimate.memory import GIB

# Weight and AdamW's two moments in 32 bit, kept twice: the newest checkpoint and the one before.
_CHECKPOINT_BYTES, _CHECKPOINTS = 12, 2
# The adapter once as a folder and once as an image's layer, in 32 bit.
_PUBLISHED_BYTES = 2 * 4
# Rows are kept as they came and as they are trained on.
_DATASET_COPIES = 2
# Logs, Prefect's history, the tokenizer.
_SPARE_GIB = 1.0


def disk_gib(
    *, weights_gib: float, trainable_parameters: int = 0, dataset_gib: float = 0.0
) -> float:
    """Disk of a run: weights, and of a tuning run checkpoints, the published adapter and rows."""
    adapter = trainable_parameters * (_CHECKPOINT_BYTES * _CHECKPOINTS + _PUBLISHED_BYTES) / GIB
    return weights_gib + adapter + dataset_gib * _DATASET_COPIES + _SPARE_GIB
