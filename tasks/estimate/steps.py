"""How many rows a step of training learns from, where its user names none. Pure."""

# QLoRA trains its 7B and 13B models in batches of 16 (arXiv 2305.14314, table 9).
_ROWS_PER_STEP = 16
# A small dataset gets smaller steps, so that there are enough of them to learn anything: 64 rows in
# 16 steps of four left a held-out loss of 3.75, in 64 of one 3.30 (from 4.09; SmolLM2, QLoRA).
STEPS_WANTED = 64


def rows_per_step(rows: int, *, epochs: float) -> int:
    """Rows of one step, a power of two: as many as leave steps enough, sixteen at most."""
    wanted = int(rows * epochs / STEPS_WANTED)
    return power_of_two(min(_ROWS_PER_STEP, wanted, rows))


def power_of_two(most: int) -> int:
    """The largest up to `most`: whatever a machine has room for, a step can be halved to fit."""
    return 1 << (max(1, most).bit_length() - 1)
