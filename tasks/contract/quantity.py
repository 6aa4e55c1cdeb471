"""Kubernetes quantities as numbers: `500m` is half a core, `16Gi` is 17,179,869,184 bytes."""

import re

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([KMGTPE]i|[numkMGTPE]))?")
_SUFFIXES = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
}


def parse_quantity(text: str | float) -> float:
    """The number that a resource quantity stands for; a number stands for itself.

    Raises: ValueError: no quantity of Kubernetes.
    """
    if isinstance(text, int | float):
        return float(text)
    found = _QUANTITY.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is no quantity; write a number such as 2, 500m or 16Gi")
    number, exponent, suffix = found.groups()
    if exponent:
        return float(f"{number}e{exponent}")
    return float(number) * (_SUFFIXES[suffix] if suffix else 1)


def quantity(number: float) -> str:
    """A quantity that says the number as a person would: `500m`, `3`, `1.5Gi`."""
    for suffix in ("Ti", "Gi", "Mi"):
        if abs(number) >= _SUFFIXES[suffix]:
            return f"{number / _SUFFIXES[suffix]:.1f}".removesuffix(".0") + suffix
    whole = round(number, 3)
    return f"{whole:g}" if whole == int(whole) else f"{round(whole * 1000)}m"
