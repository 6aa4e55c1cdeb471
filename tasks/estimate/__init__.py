"""How much memory, disk, time and money a run takes, from numbers alone. Pure.

Formulas are sums of what is known to be held at once; constants carry their source. They answer
"does it fit, how long, how much", not "how fast exactly". `tests/estimate` holds them to measured
runs and published figures.
"""

from tasks.estimate.cost import cost_usd
from tasks.estimate.memory import (
    GIB,
    GPU_SPARE,
    TuningMemory,
    batch_that_fits,
    lora_parameters,
    tuning_memory,
    tuning_memory_gib,
)
from tasks.estimate.serving import nodes_for_serving, serving_memory_gib
from tasks.estimate.storage import checkpoint_seconds, checkpoint_upload_seconds, disk_gib
from tasks.estimate.time import (
    cpu_operations_per_s,
    gpu_operations_per_s,
    tuning_seconds,
)

__all__ = [
    "GIB",
    "GPU_SPARE",
    "TuningMemory",
    "batch_that_fits",
    "checkpoint_seconds",
    "checkpoint_upload_seconds",
    "cost_usd",
    "cpu_operations_per_s",
    "disk_gib",
    "gpu_operations_per_s",
    "lora_parameters",
    "nodes_for_serving",
    "serving_memory_gib",
    "tuning_memory",
    "tuning_memory_gib",
    "tuning_seconds",
]
