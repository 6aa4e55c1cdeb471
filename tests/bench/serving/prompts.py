"""What the clients ask: texts of a given length, no two alike in their first words.

A server that keeps prompts finds nothing of one in another, unless that is what is measured.
"""

from pathlib import Path

from tokenizers import Tokenizer

_TOPICS = ("rivers", "bicycles", "bread", "the moon", "violins", "tides", "maps", "bees")


class Prompts:
    """Texts in the tokens of one model."""

    def __init__(self, weights: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))

    def letter(self, number: str) -> str:
        """Some sixty tokens that ask for a story, so that no answer ends by itself soon."""
        topic = _topic(number)
        facts = " ".join(f"Fact {fact} about {topic} is worth a line." for fact in range(4))
        return f"Letter {number}. {facts} Write a short story about {topic}."

    def text(self, number: str, *, tokens: int) -> str:
        """A text of so many tokens."""
        sentences = [f"Report {number}."]
        sentences += [f"Entry {entry} is about {_topic(str(entry))}." for entry in range(tokens)]
        ids = self._tokenizer.encode(" ".join(sentences), add_special_tokens=False).ids
        return str(self._tokenizer.decode(ids[:tokens]))


def _topic(number: str) -> str:
    return _TOPICS[sum(number.encode()) % len(_TOPICS)]
