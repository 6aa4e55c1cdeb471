"""Why vLLM has ended, from what it said last. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.contract.errors import (
    EngineEnded,
    GpuIncompatible,
    InvalidWorkspace,
    KaitoflowError,
    ModelNotSupported,
    OutOfMemory,
    WeightsUnavailable,
)

_TOLD_CHARACTERS = 300
# Lines that say what went wrong; the last of them is the reason, unless a cause below knows better.
_SAYS_WHY = re.compile(r"\b\w*(Error|Exception)\b: |^vllm.*: error: |\berror: ")


@dataclass(frozen=True)
class _Cause:
    """Words of vLLM's or of what it stands on, and what they mean."""

    words: str
    kind: type[KaitoflowError]
    fix: str


_CAUSES = (
    _Cause(
        r"unrecognized arguments|error: argument|expected one argument|invalid choice",
        InvalidWorkspace,
        "correct the flag in the ConfigMap that inference.config names, or leave it out",
    ),
    _Cause(
        r"out of memory|OutOfMemoryError|No available memory for the cache|Free memory on device"
        r"|KV cache is needed, which is larger than|MemoryError|Cannot allocate memory",
        OutOfMemory,
        "set max-model-len lower in inference.config, or choose a machine with more GPU memory",
    ),
    _Cause(
        r"no kernel image is available|driver .*too old|CUDA driver version is insufficient"
        r"|Failed to infer device type|No CUDA GPUs are available|compute capability",
        GpuIncompatible,
        "update the node's NVIDIA driver, choose another machine, or have the model served by"
        " transformers (kaito.sh/runtime: transformers)",
    ),
    _Cause(
        r"Model architectures? .* (is|are) not supported|LoRA is not supported for"
        r"|does not recognize this architecture|has no vLLM implementation",
        ModelNotSupported,
        "have it served by transformers (kaito.sh/runtime: transformers), or choose another model",
    ),
    _Cause(
        r"SafetensorError|HeaderTooLarge|Cannot find any model weights|No such file or directory"
        r"|Invalid repository ID|not a valid model identifier",
        WeightsUnavailable,
        "the folder needs config.json and safetensors of an architecture that vLLM knows",
    ),
)
_FIX = "read vLLM's own lines in the server's log; a flag of inference.config may be at fault"


def why_it_ended(asked: str, said: Sequence[str], *, exit_code: int | None) -> KaitoflowError:
    """The error that an end of vLLM is; said: its last lines, oldest first."""
    by_signal = exit_code is not None and exit_code < 0
    how = f"it was ended by signal {-(exit_code or 0)}" if by_signal else f"exit code {exit_code}"
    for cause in _CAUSES:
        for line in reversed(said):
            if re.search(cause.words, line):
                return cause.kind(asked, f"vLLM has ended ({how}): {_short(line)}", cause.fix)
    last = next((line for line in reversed(said) if _SAYS_WHY.search(line)), "it said nothing")
    return EngineEnded(asked, f"vLLM has ended ({how}): {_short(last)}", _FIX)


def _short(line: str) -> str:
    """The line without what vLLM's logger writes in front of it."""
    said = re.sub(r"^(\(\S+ pid=\d+\) )?(INFO|WARNING|ERROR) [\d: -]+ \[[^\]]*\] ?", "", line)
    said = said.strip()
    return said if len(said) <= _TOLD_CHARACTERS else f"{said[:_TOLD_CHARACTERS]}…"
