"""Two data sets of other kinds than the demo's, made of the same docstrings: labels, conversations.

Each has rows to train on and rows to ask, of other names. One Python version and one seed give one
data set.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from demo.docstrings import Entry, documented_names
from tasks.evaluation.texts import exact_match, rouge_l

Row = dict[str, Any]

TOPICS: dict[str, str] = {
    "files": "os os.path pathlib shutil glob fnmatch fileinput filecmp tempfile zipfile tarfile",
    "network": "socket ssl socketserver ipaddress smtplib http urllib email",
    "time": "datetime time calendar zoneinfo sched timeit",
    "concurrency": "asyncio threading multiprocessing concurrent queue subprocess contextvars",
    "numbers": "math statistics fractions decimal numbers random secrets",
    "code": "ast inspect importlib pkgutil traceback tracemalloc typing types abc dataclasses",
    "text": "str string textwrap difflib re codecs html locale gettext shlex",
}
ASKS_TOPIC = "What is this about: {}? {}"
PLAIN = "You know Python. Answer in one sentence."
IN_JSON = 'You know Python. Answer as JSON with the keys "name" and "does".'
Score = Callable[[str, Row], float]


@dataclass(frozen=True)
class TaskData:
    """Rows to train on, rows whose last answer is asked for, and how an answer is scored.

    scores: by what they tell, from 0 to 1.
    """

    name: str
    train: Sequence[Row]
    asked: Sequence[Row]
    scores: dict[str, Score]


def short_labels(*, rows: int, asked: int, seed: int = 0) -> TaskData:
    """What a docstring is about, in one word of seven."""
    choice = random.Random(seed)
    by_topic = {
        topic: [each for each in documented_names() if _is_of(each, modules.split())]
        for topic, modules in TOPICS.items()
    }
    most = (rows + asked) // len(TOPICS)
    found = [
        _turns(ASKS_TOPIC.format(", ".join(TOPICS), entry.answer), topic)
        for topic, entries in by_topic.items()
        for entry in choice.sample(entries, min(most, len(entries)))
    ]
    choice.shuffle(found)
    made = [{"messages": messages} for messages in found]
    scores: dict[str, Score] = {"label alone": _exact, "label named": _named}
    return TaskData("labels", made[asked:], made[:asked], scores)


def conversations(*, rows: int, asked: int, seed: int = 0) -> TaskData:
    """Two questions each; the system prompt says whether answers are sentences or JSON."""
    choice = random.Random(seed)
    names = choice.sample(documented_names(), 2 * (rows + asked))
    made = []
    for number, (first, second) in enumerate(zip(names[::2], names[1::2], strict=True)):
        system = IN_JSON if number % 2 else PLAIN
        turns = [turn for entry in (first, second) for turn in _asked_about(entry, system)]
        made.append({"messages": [{"role": "system", "content": system}, *turns]})
    scores: dict[str, Score] = {"form kept": _form_kept, "ROUGE-L": _rouge}
    return TaskData("conversations", made[asked:], made[:asked], scores)


def _is_of(entry: Entry, modules: Sequence[str]) -> bool:
    return any(entry.name == module or entry.name.startswith(f"{module}.") for module in modules)


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _asked_about(entry: Entry, system: str) -> list[dict[str, str]]:
    does = entry.answer
    answer = json.dumps({"name": entry.name, "does": does}) if system == IN_JSON else does
    return _turns(f"What does {entry.name} do?", answer)


def _expected(row: Row) -> str:
    return str(row["messages"][-1]["content"])


def _exact(answer: str, row: Row) -> float:
    return exact_match(answer, _expected(row))


def _named(answer: str, row: Row) -> float:
    """Whether the first label in the answer is the right one, whatever else is said."""
    named = [topic for topic in TOPICS if topic in answer.casefold()]
    first = min(named, key=answer.casefold().index, default="")
    return float(first == _expected(row))


def _rouge(answer: str, row: Row) -> float:
    return rouge_l(answer, _expected(row))


def _form_kept(answer: str, row: Row) -> float:
    """Whether it is JSON with those keys where that was asked for, and none where not."""
    try:
        said = json.loads(answer)
    except ValueError:
        said = None
    is_asked_for = row["messages"][0]["content"] == IN_JSON
    is_in_json = isinstance(said, dict) and said.keys() == {"name", "does"}
    return float(is_in_json if is_asked_for else not isinstance(said, dict))
