"""Jinja for templates that nobody has read: a rendering has so much time, a text so much length.

A template is a program, and Jinja's sandbox keeps it from other objects alone: two nested loops
take hours, a text that is doubled forty times takes all memory. Here each pass of a loop looks at
the time, and what operators and blocks put together has a length. What one filter does is not
looked into: for that, a template is tried in a process of its own first (`trial`).
"""

import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_SECONDS = 2.0  # of the thread's own CPU time: on a busy machine nothing else is refused
MOST_CHARACTERS = 2**24
_MOST_CHARACTERS_IN_ALL = 2**28
_SHORT_CHARACTERS = 2**10
# Those of models have up to 25,000.
_MOST_SOURCE_CHARACTERS = 2**18
_MOST_BITS = 2**16
_SEQUENCES = (str, list, tuple)
_WIDE = re.compile(r"%[^a-zA-Z%]*([0-9]{6}|\*)")


class TemplateRefusal(ValueError):
    """A chat template does not take these messages; says why in the template's words."""


class TemplateOverrun(TemplateRefusal):
    """A chat template takes longer, or makes more, than a model's template ever does."""


class _Generator(CodeGenerator):
    """Writes the template's code, with a look at the time where a loop or a macro begins."""

    _begins = False

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802 # jinja2's name
        self._begins = True
        super().visit_For(node, frame)

    def macro_body(self, node: Any, frame: Frame) -> Any:
        self._begins = True
        return super().macro_body(node, frame)

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        if self._begins:
            self.writeline("environment.look_at_time()")
        self._begins = False
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 # likewise
        self.write("environment.concat(map(str, (")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write(")))")


class _Budget(threading.local):
    """What a thread's rendering may still take."""

    until_s = 0.0
    characters = 0


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with bounds; may be used by several threads."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._budget = _Budget()
        del self.globals["lipsum"]  # text of any length

    @contextmanager
    def rendering(self) -> Iterator[None]:
        """Have what is rendered in the block end in time."""
        self._budget.until_s = time.thread_time() + MOST_SECONDS
        self._budget.characters = _MOST_CHARACTERS_IN_ALL
        yield

    def look_at_time(self) -> None:
        """Nothing, while there is time. Raises: TemplateOverrun."""
        if time.thread_time() > self._budget.until_s:
            raise TemplateOverrun(f"it takes over {MOST_SECONDS:g} s")

    def concat(self, parts: Iterable[str]) -> str:
        """The parts as one text. Raises: TemplateOverrun."""
        kept, length = [], 0
        for part in parts:
            kept.append(part)
            length += len(part)
            if length > MOST_CHARACTERS:
                break
        self._expect_short(length)
        return "".join(kept)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operator's value. Raises: TemplateOverrun."""
        if operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise TemplateOverrun("it formats a value to a width of over 100,000")
        self._expect_short(_length(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def _expect_short(self, length: int) -> None:
        if length < _SHORT_CHARACTERS:
            return  # so many of them take longer than there is time
        self._budget.characters -= length
        if length > MOST_CHARACTERS or self._budget.characters < 0:
            raise TemplateOverrun(f"it makes a text of over {MOST_CHARACTERS:,} characters")

    def from_string(self, source: Any, *arguments: Any, **options: Any) -> Any:
        """The template. Raises: jinja2.TemplateError, TemplateOverrun."""
        if len(source) > _MOST_SOURCE_CHARACTERS:
            raise TemplateError(f"it has over {_MOST_SOURCE_CHARACTERS} characters")
        try:
            return super().from_string(source, *arguments, **options)
        except RecursionError as error:
            raise TemplateError("it is too deeply nested") from error
        except MemoryError as error:  # a constant of it is computed
            raise TemplateOverrun("it takes more memory than there is") from error


def _length(operator: str, left: Any, right: Any) -> int:
    """How long a text an operator makes; what is no text counts as one of its size."""
    if operator == "+":
        is_joined = isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES)
        return _weight(left) + _weight(right) if is_joined else 0
    if isinstance(left, int) and isinstance(right, int):
        bits = {"*": left.bit_length() + right.bit_length(), "**": left.bit_length() * right}
        return bits.get(operator, 0) * (MOST_CHARACTERS // _MOST_BITS)
    repeated, times = (left, right) if isinstance(left, _SEQUENCES) else (right, left)
    if operator == "*" and isinstance(repeated, _SEQUENCES) and isinstance(times, int):
        return _weight(repeated) * times
    return 0


def _weight(value: Any) -> int:
    """The characters of a text; of a list as many as take the memory of its entries."""
    return len(value) if isinstance(value, str) else 8 * len(value)
