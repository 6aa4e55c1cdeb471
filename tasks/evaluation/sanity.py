"""What is wrong with written answers whatever they are about: empty, endless, looping, foreign.

A metric's mean can improve while every tenth answer never ends.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.contract.programs.evaluation import Sanity

# A run of words that comes this often in a row is a loop; prose and lists stay far below.
_LOOP_TIMES = 4
_LOOP_WORDS = 12
# Of the letters; a quotation or a name in another script stays below.
_OTHER_SCRIPT_SHARE = 0.5
_FEWEST_LETTERS = 8
# Written in one text, they are one language's.
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK"}
# Of the answers: one of eight may fail, as the base model's may.
_TOLERATED_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class WrittenAnswer:
    """An answer that a model wrote; stopped: by itself, not at the limit of its length."""

    text: str
    expected: str
    stopped: bool


def look_at(answers: Sequence[WrittenAnswer]) -> Sanity:
    """How many of the answers have which fault; of one without letters the script is no fault."""
    return Sanity(
        asked=len(answers),
        empty=sum(not answer.text.strip() for answer in answers),
        endless=sum(not answer.stopped for answer in answers),
        looping=sum(is_looping(answer.text) for answer in answers),
        foreign=sum(_is_foreign(answer) for answer in answers),
    )


def faults(candidate: Sanity, reference: Sanity) -> list[str]:
    """What more than a quarter of the candidate's answers lack, and the reference's less often.

    In words; none = they are sound. Rows whose own answers are long end no model's answers in time.
    """
    told = (
        ("empty", "are empty"),
        ("endless", "do not stop by themselves"),
        ("looping", "repeat themselves"),
        ("foreign", "are in another script than the expected ones"),
    )
    return [
        f"{count} of {candidate.asked} {words}"
        for name, words in told
        if (count := getattr(candidate, name)) > _TOLERATED_SHARE * candidate.asked
        and count > getattr(reference, name)
    ]


def is_looping(text: str) -> bool:
    """Whether the same few words come again and again without anything between them."""
    words = text.split()
    return any(_repeats(words, length) for length in range(1, _LOOP_WORDS + 1))


def _repeats(words: Sequence[str], length: int) -> bool:
    """Whether some run of so many words stands there four times in a row."""
    needed, same = length * (_LOOP_TIMES - 1), 0
    for at in range(length, len(words)):
        same = same + 1 if words[at] == words[at - length] else 0
        if same >= needed:
            return True
    return False


def main_script(text: str) -> str | None:
    """The Unicode script of most letters, such as LATIN or CJK; None = too few letters."""
    letters = [char for char in text if char.isalpha()]
    if len(letters) < _FEWEST_LETTERS:
        return None
    named = (unicodedata.name(char, "").partition(" ")[0] for char in letters)
    scripts = Counter(_TOGETHER.get(name, name) for name in named)
    script, count = scripts.most_common(1)[0]
    return script if count > _OTHER_SCRIPT_SHARE * len(letters) else None


def _is_foreign(answer: WrittenAnswer) -> bool:
    wanted, said = main_script(answer.expected), main_script(answer.text)
    return wanted is not None and said is not None and wanted != said
