"""The rows that a person sets aside to measure adapters on, by the address of their file. Pure.

They are a yardstick that no new data moves: they are measured, and their questions are learned by
no adapter.
"""

from collections.abc import Mapping

from tasks.contract.errors import InvalidWorkspace

EVALUATION_DATA_ANNOTATION = "kaitoflow.io/evaluation-data"


def evaluation_url(annotations: Mapping[str, str]) -> str | None:
    """The address of the rows; None = adapters are measured on rows held out of their own data.

    Raises: InvalidWorkspace.
    """
    text = annotations.get(EVALUATION_DATA_ANNOTATION)
    if text is None:
        return None
    words = text.split()
    if len(words) != 1:
        raise InvalidWorkspace(
            f"annotation {EVALUATION_DATA_ANNOTATION} was set",
            f"it names {len(words)} addresses, not one",
            "write the address of one file, as https://example.com/evaluation.jsonl",
        )
    return words[0]
