"""What a mutant is: one small break of a module's text, as a slip of the hand would make it.

Left alone are annotations, docstrings, log lines, messages and what only type checkers read: their
change breaks nothing that a test should hold. So are a dataclass's options and a model's `frozen`,
which mypy holds their users to, and the `strict` of a zip, which asserts what is true of both sides
anyway.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

_FLIPPED: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
}
_SWAPPED: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
}
_LOGGERS = ("log", "logger", "logging", "_LOG", "_log")


@dataclass(frozen=True)
class Mutant:
    """One break: the text between two positions of a file, replaced by another."""

    line: int
    start: int
    end: int
    text: str
    operator: str
    was: str

    def apply(self, source: str) -> str:
        """Return the source with the break in it."""
        encoded = source.encode()
        return (encoded[: self.start] + self.text.encode() + encoded[self.end :]).decode()


def find_mutants(source: str) -> list[Mutant]:
    """Return every break that the operators know of `source`, in the order of its lines."""
    found = [mutant for mutant in _Finder(source).find() if _compiles(mutant.apply(source))]
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end, mutant.text))


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


class _Finder:
    def __init__(self, source: str) -> None:
        self._tree = ast.parse(source)
        self._text = source.encode()
        lines = self._text.splitlines(keepends=True)
        self._line_starts = [sum(map(len, lines[:index])) for index in range(len(lines) + 1)]
        self._by_kind: dict[type[ast.AST], Callable[..., Iterator[tuple[ast.AST, str, str]]]] = {
            ast.Compare: self._of_compare,
            ast.BinOp: self._of_arithmetic,
            ast.BoolOp: self._of_and_or,
            ast.UnaryOp: self._of_not,
            ast.If: self._of_condition,
            ast.IfExp: self._of_condition,
            ast.While: self._of_condition,
            ast.Constant: self._of_constant,
            ast.Return: self._of_return,
            ast.Expr: self._of_call,
            ast.Assign: self._of_assignment,
            ast.AugAssign: self._of_statement,
            ast.Raise: self._of_statement,
            ast.Continue: self._of_statement,
            ast.Break: self._of_statement,
            ast.Dict: self._of_keys,
            ast.Subscript: self._of_subscript,
        }

    def find(self) -> Iterator[Mutant]:
        yield from self._under(self._tree)

    def _under(self, node: ast.AST) -> Iterator[Mutant]:
        for kind, changes in self._by_kind.items():
            if isinstance(node, kind):
                yield from (self._mutant(*change) for change in changes(node))
        for child in _children(node):
            yield from self._under(child)

    def _mutant(self, node: ast.AST, text: str, operator: str) -> Mutant:
        start, end = self._span(node)
        was = self._text[start:end].decode()
        return Mutant(node.lineno, start, end, text, operator, was)  # type: ignore[attr-defined]

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self._line_starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self._line_starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return start, end

    def _words(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._text[start:end].decode()

    def _of_compare(self, node: ast.Compare) -> Iterator[tuple[ast.AST, str, str]]:
        if len(node.ops) == 1:
            left, right = self._words(node.left), self._words(node.comparators[0])
            for flipped in _FLIPPED[type(node.ops[0])]:
                yield node, f"{left} {flipped} {right}", "comparison"

    def _of_arithmetic(self, node: ast.BinOp) -> Iterator[tuple[ast.AST, str, str]]:
        swapped = _SWAPPED.get(type(node.op))
        if swapped and not any(_is_text(side) for side in (node.left, node.right)):
            words = f"{self._words(node.left)} {swapped} {self._words(node.right)}"
            yield node, words, "arithmetic"

    def _of_and_or(self, node: ast.BoolOp) -> Iterator[tuple[ast.AST, str, str]]:
        word = " or " if isinstance(node.op, ast.And) else " and "
        yield node, word.join(f"({self._words(value)})" for value in node.values), "and/or"

    def _of_not(self, node: ast.UnaryOp) -> Iterator[tuple[ast.AST, str, str]]:
        if isinstance(node.op, ast.Not):
            yield node, f"({self._words(node.operand)})", "not"

    def _of_condition(
        self, node: ast.If | ast.IfExp | ast.While
    ) -> Iterator[tuple[ast.AST, str, str]]:
        is_broken_already = isinstance(
            node.test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.NamedExpr
        )
        if not is_broken_already and not _is_for_type_checkers(node):
            yield node.test, f"not ({self._words(node.test)})", "condition"

    def _of_constant(self, node: ast.Constant) -> Iterator[tuple[ast.AST, str, str]]:
        if isinstance(node.value, bool):
            yield node, str(not node.value), "constant"
        elif isinstance(node.value, int | float):
            yield node, repr(node.value + 1), "number"

    def _of_return(self, node: ast.Return) -> Iterator[tuple[ast.AST, str, str]]:
        if node.value is not None and not _is_none(node.value):
            yield node, "return None", "return"

    def _of_call(self, node: ast.Expr) -> Iterator[tuple[ast.AST, str, str]]:
        if isinstance(node.value, ast.Call | ast.Await) and not self._is_logging(node):
            yield node, "pass", "dropped"

    def _of_assignment(self, node: ast.Assign) -> Iterator[tuple[ast.AST, str, str]]:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            yield node, "pass", "dropped"

    def _of_statement(self, node: ast.stmt) -> Iterator[tuple[ast.AST, str, str]]:
        yield node, "pass", "dropped"

    def _of_keys(self, node: ast.Dict) -> Iterator[tuple[ast.AST, str, str]]:
        for key in node.keys:
            if key is not None and _is_text(key):
                yield key, f"{self._words(key)} 'X'", "key"

    def _of_subscript(self, node: ast.Subscript) -> Iterator[tuple[ast.AST, str, str]]:
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            yield node.slice, f"{self._words(node.slice)} 'X'", "key"

    def _is_logging(self, node: ast.AST) -> bool:
        return self._words(node).split(".")[0] in _LOGGERS


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of `node` in which a break could be noticed."""
    left_out = {"annotation", "returns", "type_params", "type_comment"}
    if _is_for_type_checkers(node):
        left_out |= {"test", "body"}
    called = _name(node.func) if isinstance(node, ast.Call) else ""
    if called in {"TypeVar", "NewType", "cast", "dataclass"}:
        return
    if isinstance(node, ast.keyword) and node.arg == "frozen":
        return
    if called == "zip":
        yield from cast("ast.Call", node).args
        return
    for name, value in ast.iter_fields(node):
        if name not in left_out:
            yield from (part for part in _as_list(value) if isinstance(part, ast.AST))


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
