"""What vLLM tells Prometheus, beside what the front door counts under the same names. Pure."""

import re
from collections.abc import Collection

_FAMILY = re.compile(r"^# (?:HELP|TYPE) (\S+)")
_TYPE = re.compile(r"^# TYPE (\S+)", re.MULTILINE)
_CACHE_USAGE = re.compile(r"^vllm:kv_cache_usage_perc(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def families(page: str) -> set[str]:
    """The names that a page tells values of."""
    return set(_TYPE.findall(page))


def beside(page: str, *, taken: Collection[str]) -> str:
    """The page without what is told under these names already, by their names of requests."""
    kept, is_taken = [], False
    for line in page.splitlines():
        if found := _FAMILY.match(line):
            is_taken = found[1] in taken
        if not is_taken:
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def cache_usage(page: str) -> float:
    """The share of the KV cache that is in use; 0 where it is not told."""
    shares = [float(share) for share in _CACHE_USAGE.findall(page)]
    return max(shares, default=0.0)
