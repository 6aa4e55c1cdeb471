"""Freed memory goes back to the system: glibc's heap keeps it, elsewhere nothing has to be done.

The heap cannot give back or reuse the holes between blocks that are still in use. In a forward and
backward pass these are more than what is in use once activations are recomputed: 2.6 GiB instead of
1.5 at the peak (SmolLM2, QLoRA, 4 rows of 512 tokens).
"""

import ctypes
import gc
import logging

log = logging.getLogger(__name__)

_M_MMAP_THRESHOLD = -3  # of malloc.h
_MIB = 2**20


def give_back_freed_blocks() -> None:
    """Make a block of a mebibyte or more the system's again the moment that it is freed.

    Costs time: each block's pages are fetched anew.
    """
    if _calls("mallopt", _M_MMAP_THRESHOLD, _MIB):
        log.info("freed memory given back at once")


def give_back_holes() -> None:
    """Give back what is free in the heap now, such as what loading a model has left."""
    _calls("malloc_trim", 0)


def give_back_unused() -> None:
    """Give back what nothing refers to any more, and what torch keeps of the GPU's memory."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _calls(name: str, *arguments: int) -> bool:
    function = getattr(ctypes.CDLL(None), name, None)
    return function is not None and bool(function(*arguments))
