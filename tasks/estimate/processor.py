"""What this machine's processor computes in itself."""

from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_FLAGS = ("avx512_bf16", "amx_bf16", " bf16")


def cpu_has_bf16(file: Path = _CPU_INFO) -> bool:
    """Whether it computes in bfloat16; one that does not is given 32 bits instead of 16."""
    try:
        text = file.read_text()
    except OSError:
        return False
    return any(flag in text for flag in _FLAGS)
