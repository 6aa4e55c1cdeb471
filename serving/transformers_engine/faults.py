"""What fails while the engine computes: how it is told, and how its memory is freed."""

import contextlib
import traceback

import torch

from serving.engine import DeviceFullError, GenerationFailedError

# How CUDA, cuBLAS and PyTorch's allocator on a CPU say it; only the first has a class of its own.
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


def told(error: Exception) -> GenerationFailedError:
    """A fault as whoever waits for the answer is told it; without the frames that hold tensors."""
    kind = DeviceFullError if is_out_of_memory(error) else GenerationFailedError
    return kind(str(error))


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device's memory did not hold what was computed."""
    message = str(error)
    return isinstance(error, MemoryError) or any(part in message for part in _OUT_OF_MEMORY)


def free_frames(error: Exception) -> None:
    """Free the tensors of what failed: its frames live as long as the error does."""
    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
