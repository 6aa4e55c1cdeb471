"""The demo's dataset: questions about Python's standard library, answered by its own docstrings.

Sources are read, not imported, since importing some modules does things; only what is written in
C, which has no source here, is looked at alive. One Python version and one seed give one file.
Run as: `python -m demo.docstrings OUT.parquet --rows 320 --seed 0`.
"""

import argparse
import ast
import builtins
import inspect
import random
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.contract.errors import DatasetRowsInvalid

Kind = Literal["module", "thing", "action"]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

QUESTIONS: dict[Kind, tuple[str, ...]] = {
    "module": ("What is the {} module for?", "What does Python's {} module offer?"),
    "thing": ("What is {} in Python?", "What is {} for?"),
    "action": ("What does {} do?", "What does {} do in Python?", "What is {} for?"),
}
# What many people use, and whose docstrings speak to them.
MODULES = tuple(
    "abc argparse ast asyncio base64 bisect bz2 calendar codecs collections collections.abc "
    "concurrent.futures configparser contextlib contextvars copy csv ctypes dataclasses datetime "
    "decimal difflib email.message email.utils enum filecmp fileinput fnmatch fractions "
    "functools getpass gettext glob gzip hashlib heapq hmac html html.parser http.client "
    "http.cookies http.server importlib importlib.metadata importlib.resources inspect io "
    "ipaddress json keyword linecache locale logging logging.handlers lzma "
    "mimetypes multiprocessing.pool multiprocessing.shared_memory numbers operator os os.path "
    "pathlib pickle pkgutil platform plistlib pprint profile queue random re reprlib runpy sched "
    "secrets selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl stat "
    "statistics string struct subprocess sysconfig tarfile tempfile textwrap threading timeit "
    "tomllib traceback tracemalloc types typing unittest unittest.mock urllib.error urllib.parse "
    "urllib.request uuid venv warnings weakref webbrowser xml.etree.ElementTree zipapp zipfile "
    "zoneinfo".split()
)
# Modules that live in a file of another name.
FILES = {
    "os.path": "posixpath",
    "collections.abc": "_collections_abc",
    "datetime": "_pydatetime",  # since 3.12
}
# Without a source file: their docstrings are in C.
C_MODULES = ("math", "itertools", "time", "zlib", "gc")
C_TYPES: tuple[type, ...] = (str, bytes, list, dict, set, tuple, int, float)
COLUMNS = pa.schema(
    [("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))]
)


@dataclass(frozen=True)
class Entry:
    """A public name of the standard library and what its docstring says first."""

    name: str
    kind: Kind
    answer: str


def write_docstring_dataset(target: Path, *, rows: int, seed: int) -> None:
    """Write `rows` question-and-answer conversations as a Parquet file with one column, `messages`.

    Raises: DatasetRowsInvalid: the standard library has fewer usable docstrings than that.
    """
    entries = documented_names()
    if rows > len(entries):
        raise DatasetRowsInvalid(
            f"{rows} rows were asked for",
            f"this Python's standard library has {len(entries)} usable docstrings",
            "ask for fewer rows",
        )
    choice = random.Random(seed)
    table = [{"messages": _messages(entry, choice)} for entry in choice.sample(entries, rows)]
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(table, schema=COLUMNS), target)


@cache
def documented_names() -> tuple[Entry, ...]:
    """Every public name with a docstring worth reading, in order of name, no answer twice."""
    found = [*_from_sources(), *_from_c()]
    by_answer: dict[str, Entry] = {}
    for entry in sorted(found, key=lambda entry: (entry.name.count("."), entry.name)):
        by_answer.setdefault(entry.answer.casefold(), entry)
    by_name = {entry.name: entry for entry in by_answer.values()}
    return tuple(by_name[name] for name in sorted(by_name))


def first_sentences(docstring: str) -> str | None:
    """What a docstring says first, in one or two sentences; None where that would not read well."""
    paragraphs = [_plain(paragraph) for paragraph in inspect.cleandoc(docstring).split("\n\n")]
    prose = [paragraph for paragraph in paragraphs if not SIGNATURE.match(paragraph)]
    if not prose:
        return None
    first = SENTENCE.findall(prose[0]) or [prose[0] + "."]
    more = first[1:] or SENTENCE.findall("".join(prose[1:2]))
    second = [sentence for sentence in more[:1] if NEXT.match(sentence)]
    both = " ".join(sentence.strip() for sentence in [first[0], *second])
    return next(filter(_reads_well, (both, first[0].strip())), None)


MIN_CHARACTERS, MAX_CHARACTERS = 20, 400
MIN_WORDS = 4
SIGNATURE = re.compile(r"[\w.]+\(.*\)( ?->.*)?$")
SENTENCE = re.compile(r".+?(?<!e\.g)(?<!i\.e)[.!?](?:\s+(?=[A-Z\"'`(])|$)")
# A second sentence that goes on from the first, unlike `Returns: ...` and `See ...`.
NEXT = re.compile(r"(?!\w+: |See )[A-Z`'\"]")
ROLE = re.compile(r":\w+(?::\w+)*:`~?([^`<]+?)(?:\s*<[^>]*>)?`")
EMPHASIS = re.compile(r"(?<![\w*])\*(\w+)\*(?![\w*])")
# Markup, code and lists, spoilt by joining the lines; words for other readers or other lines.
NOISE = re.compile(
    r"::|:param|https?:|>>>|\.\. |--|->|==|\*\*\w|`\w+'|\s[-*+o] |\||___|\d\) | ,|[:,;]\.?$"
    r"|\b(self|XXX|TODO|FIXME|above|below|following|subclass(es)?|overrid(e|den)|obsolete|internal"
    r"|deprecated|contributed|helper|hook|removed at)\b",
    re.IGNORECASE,
)
NOT_AN_ANSWER = re.compile(
    r"(abstract|arguments?|called|constructor|copyright|create an? instance|cls|don't|example"
    r"|for use|handle|if|implement|initiali[sz]e|it|like|note|parameters|please|private|same as"
    r"|see|support(s|ing)?|this|undocumented|usage|written by)\b",
    re.IGNORECASE,
)


def _plain(paragraph: str) -> str:
    text = ROLE.sub(r"`\1`", paragraph.replace("``", "`"))
    return re.sub(r"\s+", " ", EMPHASIS.sub(r"`\1`", text)).strip()


def _reads_well(text: str) -> bool:
    return (
        MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS
        and len(text.split()) >= MIN_WORDS
        and text[0].isupper()
        and text.endswith(".")
        and text.isascii()
        and text.count("(") == text.count(")")
        and text.count("`") % 2 == 0
        and not NOISE.search(text)
        and not NOT_AN_ANSWER.match(text)
    )


def _messages(entry: Entry, choice: random.Random) -> list[dict[str, str]]:
    question = choice.choice(QUESTIONS[entry.kind]).format(entry.name)
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": entry.answer},
    ]


def _entry(name: str, kind: Kind, docstring: str | None) -> Iterator[Entry]:
    answer = first_sentences(docstring) if docstring else None
    if answer is not None:
        yield Entry(name, kind, answer)


def _from_sources() -> Iterator[Entry]:
    library = Path(sysconfig.get_path("stdlib"))
    for name in MODULES:
        path = library / name.replace(".", "/")
        elsewhere = library / f"{FILES.get(name, name)}.py"
        if name in FILES and elsewhere.is_file():
            yield from _from_module(elsewhere, name)
        elif path.is_dir():
            yield from _from_package(path, name)
        else:
            yield from _from_module(path.with_suffix(".py"), name)


def _from_package(folder: Path, name: str) -> Iterator[Entry]:
    """A package's own names, and those that it takes from its modules."""
    opening = folder / "__init__.py"
    yield from _from_module(opening, name)
    for part, names in _names_taken(_parse(opening), name).items():
        if (folder / f"{part}.py").is_file():
            yield from _from_module(folder / f"{part}.py", name, only=names)


def _names_taken(package: ast.Module, name: str) -> dict[str, frozenset[str]]:
    """What a package imports from each of its modules; empty = all that is public there."""
    taken: dict[str, frozenset[str]] = {}
    for node in package.body:
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.level == 1 or node.module.startswith(f"{name}."):
            names = frozenset(alias.name for alias in node.names) - {"*"}
            taken[node.module.removeprefix(f"{name}.")] = names
    return taken


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


def _from_module(path: Path, name: str, *, only: frozenset[str] | None = None) -> Iterator[Entry]:
    """The entries of one file; with `only`, it is a part of package `name` and has no own entry."""
    module = _parse(path)
    if only is None:
        yield from _entry(name, "module", ast.get_docstring(module))
    exported = only or _exported(module)
    for node in _public(module.body):
        if not exported or node.name in exported:
            yield from _from_definition(node, f"{name}.{node.name}")


def _from_definition(node: Definition, name: str) -> Iterator[Entry]:
    is_property = any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)
    kind: Kind = "thing" if isinstance(node, ast.ClassDef) or is_property else "action"
    yield from _entry(name, kind, ast.get_docstring(node))
    if isinstance(node, ast.ClassDef):
        for member in _public(node.body):
            yield from _from_definition(member, f"{name}.{member.name}")


def _public(body: Iterable[ast.stmt]) -> Iterator[Definition]:
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def _exported(module: ast.Module) -> frozenset[str]:
    """The names in `__all__`, as far as they are written out."""
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            values = ast.walk(node.value)
            return frozenset(str(v.value) for v in values if isinstance(v, ast.Constant))
    return frozenset()


def _from_c() -> Iterator[Entry]:
    for name, value in _public_members(builtins):
        yield from _entry(name, "thing" if isinstance(value, type) else "action", value.__doc__)
    modules = [(name, import_module(name)) for name in C_MODULES]
    for owner_name, owner in [*modules, *((c_type.__name__, c_type) for c_type in C_TYPES)]:
        for name, value in _public_members(owner):
            yield from _entry(f"{owner_name}.{name}", "action", value.__doc__)


def _public_members(owner: object) -> Iterator[tuple[str, object]]:
    for name, value in inspect.getmembers(owner, callable):
        if not name.startswith("_"):
            yield name, value


def main(arguments: list[str]) -> int:
    """Write the file that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m demo.docstrings")
    parser.add_argument("target", type=Path)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args(arguments)
    write_docstring_dataset(wanted.target, rows=wanted.rows, seed=wanted.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
