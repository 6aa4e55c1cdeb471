"""What a model answers where it was tuned, kept beside its adapter for whoever serves it.

The trainer writes it, the server asks itself the same: a template, a tokenizer, base weights or
numbers that differ are told before anybody is answered by them.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

FILE = "as_trained.json"

# Of nobody's data, and so different that what differs shows in one of them.
PROMPTS = (
    "Hello!",
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "2, 4, 8, 16,",
    "def add(a, b):\n    return",
    "Wie heißt die größte Stadt der Schweiz?",
    "Give me a list of three fruits as JSON.",
    "  Two spaces before, a tab\tand a line\nin between: 東京 €5",
)
LIKELIEST = 5


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One prompt as the trainer's model saw it.

    ids: of the prompt, as a user's turn where there is a chat template.
    likeliest: tokens that may follow, with the logarithms of their probabilities, best first.
    """

    prompt: str
    ids: tuple[int, ...]
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class AsTrained:
    """All prompts, and what they were seen with.

    dtype: the number format of the base model, as PyTorch names it.
    is_chat: whether a chat template was used. is_dated: whether it tells the day, so that on
        another day the ids are others. text_ids: of each prompt as plain text.
    """

    base_model: str
    base_revision: str
    dtype: str
    is_chat: bool
    is_dated: bool
    text_ids: tuple[tuple[int, ...], ...]
    seen: tuple[Seen, ...]

    def written(self) -> dict[str, Any]:
        """The content of its file."""
        return asdict(self)


def read_as_trained(adapter: Path) -> AsTrained | None:
    """What lies beside an adapter; None where there is nothing, as beside others' adapters.

    Raises: ValueError: it is there and cannot be read.
    """
    file = adapter / FILE
    if not file.is_file():
        return None
    return TypeAdapter(AsTrained).validate_json(file.read_bytes())
