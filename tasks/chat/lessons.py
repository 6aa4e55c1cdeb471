"""A conversation -> the texts it is trained on, and where in them the assistant speaks.

What the assistant says behind what a server would be asked, until it ends its turn, is learned, and
nothing else. Where the whole conversation renders each turn so, it is one text; where a template
rewrites what lies before (cuts reasoning, moves the system prompt), TRL's training form may be one;
else each answer is a text of its own, behind exactly what a server would be asked.

Places are found in a rendering with marks instead of contents, which depends on the conversation's
shape alone; filled with the contents it must be the true rendering, letter by letter.
"""

import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from tasks.chat.bounds import TemplateRefusal
from tasks.chat.literals import Rendered, Said, control_texts, render_literally
from tasks.chat.marks import MARK, Marked, end_of_last_mark, fill, growth, last_mark, mark
from tasks.chat.proof import Unteachable, prove
from tasks.chat.template import ChatTemplate, Message, Tool
from tasks.chat.thoughts import with_reasoning_apart, with_thought, without_reasoning
from tasks.chat.training_forms import training_form

_KEPT_PLANS = 4096
UNTEACHABLE_FIX = "change the row, or set ModelConfig.chat_template to one that renders all of it"

Span = tuple[int, int]


@dataclass(frozen=True)
class Lesson:
    """A text to train on; spans: where the assistant speaks, in order, the end of turn included.

    literals: where it spells special tokens that are text.
    """

    text: str
    spans: tuple[Span, ...]
    literals: tuple[Span, ...] = ()

    @property
    def rendered(self) -> Rendered:
        """What a tokenizer is given."""
        return Rendered(self.text, self.literals)

    @property
    def taught_share(self) -> float:
        """What of the text is learned, of its characters."""
        return sum(end - start for start, end in self.spans) / max(1, len(self.text))


def learned_tokens(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Whether each token is learned, by where its text begins and ends.

    A token that begins before a span and ends in it is said with it: what comes before is the white
    space that a tokenizer merges with a word.
    """
    return [any(start < end <= stop for start, stop in spans) for _, end in offsets]


def turns_to_learn(messages: Sequence[Message]) -> list[int]:
    """The assistant's turns that are to be learned: all but those of weight 0."""
    return [
        at
        for at, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("weight", 1) != 0
    ]


@dataclass(frozen=True)
class _Answer:
    """One turn with marks: what the server would be asked, what is said, whether it ends itself."""

    ask: str
    said: str
    ends: bool

    @property
    def asked_last(self) -> str:
        """What is asked behind the last content before the answer."""
        return self.ask[end_of_last_mark(self.ask) :]


@dataclass(frozen=True)
class _Plan:
    """Texts with marks, each with the places of what is learned, and what it is a rendering of.

    turn: the one that a text is for; None = the whole conversation is one text.
    """

    form: ChatTemplate
    texts: tuple[tuple[int | None, str, tuple[Span, ...]], ...]


class Teacher:
    """Finds what is learned of conversations that one chat template renders."""

    def __init__(
        self,
        template: ChatTemplate,
        *,
        specials: Collection[str],
        added: Collection[str] = (),
        eos: str | None = None,
    ) -> None:
        """Teach by a template whose special tokens are these texts; some of them end a turn.

        Args: added: all texts that the tokenizer keeps whole, special or not.
        eos: is put behind an answer that the template lets end without a token.
        """
        self.template = template
        self.controls = control_texts(template, special=specials, added=added)
        self._longest_first = sorted(filter(None, specials), key=len, reverse=True)
        self._eos = eos or ""
        self._plans: dict[str, _Plan] = {}
        form = training_form(template.source)
        self._training_form = (
            ChatTemplate(form, template.tokens, moment=template.moment) if form else None
        )
        self._header = self._find_header()
        self.ends = self._find_ends()
        # Whether reasoning beside the content is rendered; read: or said behind an opened thought.
        self.renders_reasoning, self.reads_reasoning = self._probe_reasoning()

    def teach(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[Lesson]:
        """The texts to train on, proved to teach all that is to be learned and nothing else.

        Raises: Unteachable, TemplateRefusal.
        """
        lessons, said = self._teach(messages, tools), Said(messages, tools, self.controls)
        if not said.marks:
            return lessons
        marked = self._teach(said.messages, said.tools)
        return [
            replace(lesson, literals=said.places(lesson.text, other.text))
            for lesson, other in zip(lessons, marked, strict=True)
        ]

    def _teach(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Lesson]:
        if self.renders_reasoning:
            messages = [with_reasoning_apart(message) for message in messages]
        elif not self.reads_reasoning:
            messages = [without_reasoning(message) for message in messages]
        turns = turns_to_learn(messages)
        if not turns:
            raise Unteachable("no assistant turn of it is to be learned")
        marked = Marked(messages)
        key = json.dumps([marked.messages, tools, turns], default=str)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _KEPT_PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._plan(marked, tools, turns)
        lessons = []
        for turn, text, spans in plan.texts:
            lesson = self._filled(plan.form, marked, tools, turn=turn, text=text, spans=spans)
            said = messages if turn is None else messages[: turn + 1]
            self._prove(lesson, said, tools, turns=turns if turn is None else [turn])
            lessons.append(lesson)
        return lessons

    def ask(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Rendered:
        """The text that a server gives the model to answer. Raises: TemplateRefusal."""
        return render_literally(
            lambda messages, tools: self.template.render(messages, tools=tools, asks=True),
            messages,
            tools,
            controls=self.controls,
        )

    def _prove(
        self,
        lesson: Lesson,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        turns: Sequence[int],
    ) -> None:
        forms = [self.template] + ([self._training_form] if self._training_form else [])
        sources = [source for form in forms for source in (form.source, form.tool_source)]
        prove(
            messages,
            tools,
            turns=turns,
            text=lesson.text,
            spans=lesson.spans,
            ends={*self.ends, self._eos} - {""},
            scaffold="\n".join([*sources, *map(str, self.template.tokens.values())]),
        )

    def _filled(
        self,
        form: ChatTemplate,
        marked: Marked,
        tools: Sequence[Tool],
        *,
        turn: int | None,
        text: str,
        spans: Sequence[Span],
    ) -> Lesson:
        """The text with its contents, held against the true rendering."""
        if turn is None:
            true, compared = form.render(marked.given, tools=tools), text
        elif turn == 0:
            true, compared = "", ""
        else:
            true = form.render(marked.given[:turn], tools=tools, asks=True)
            compared = text[: spans[0][0]]
        for contents in (marked.contents, marked.escaped):
            filled = fill(compared, contents)
            # A question for a thought is the server's, without the end of thought that it has.
            if filled == true or (turn is not None and true.startswith(filled)):
                grown = growth(text, contents)
                return Lesson(fill(text, contents), tuple((grown(a), grown(b)) for a, b in spans))
        raise Unteachable(
            "the chat template renders it in a way that depends on what is said, so that it cannot "
            "be told what the assistant says"
        )

    def _plan(self, marked: Marked, tools: Sequence[Tool], turns: Sequence[int]) -> _Plan:
        whole = self.template.render(marked.messages, tools=tools)
        answers = {turn: self._answer(marked, tools, turn) for turn in turns}
        if all(answer.ends for answer in answers.values()):
            spans = [_place(whole, answer, exact=True) for answer in answers.values()]
            if not any(span is None for span in spans):
                return _Plan(self.template, ((None, whole, tuple(s for s in spans if s)),))
            if plan := self._plan_by_training_form(marked, tools, list(answers.values())):
                return plan
        texts = []
        for turn, answer in answers.items():
            said = answer.said if answer.ends else answer.said + self._eos
            span = (len(answer.ask), len(answer.ask) + len(said))
            texts.append((turn, answer.ask + said, (span,)))
        return _Plan(self.template, tuple(texts))

    def _plan_by_training_form(
        self, marked: Marked, tools: Sequence[Tool], answers: Sequence[_Answer]
    ) -> _Plan | None:
        form = self._training_form
        if form is None:
            return None
        try:
            whole = form.render(marked.messages, tools=tools)
        except TemplateRefusal:
            return None
        found = MARK.findall(whole)
        spans = [_place(whole, one, exact=one is answers[0]) for one in answers]
        if any(span is None for span in spans) or sorted(found) != sorted(marked.contents):
            return None
        return _Plan(form, ((None, whole, tuple(span for span in spans if span)),))

    def _answer(self, marked: Marked, tools: Sequence[Tool], turn: int) -> _Answer:
        """Ask and answer as a server and a model would exchange them.

        Raises: Unteachable, TemplateRefusal.
        """
        before, own = marked.messages[:turn], marked.marks[turn]
        told = self._rendered(marked.messages[: turn + 1], tools)
        if told is None:
            # Only the whole conversation is taken: some templates want a user's turn first.
            told = self._up_to(self.template.render(marked.messages, tools=tools), marked, turn)
        ask = self._rendered(before, tools, asks=True) if before else None
        if ask is None:
            start = self._start_by_header(told, own)
            ask, said = told[:start], told[start:]
        elif told.startswith(ask):
            said = told[len(ask) :]
        else:
            ask, said = self._continued(ask, told, marked, turn)
        ask, said = with_thought(ask, said, marked, turn)
        least = max((said.rfind(mark) + len(mark) for mark in own if mark in said), default=0)
        end = max((at + len(e) for e in self.ends if (at := said.rfind(e)) >= least), default=0)
        return _Answer(ask, said[:end] if end else said.rstrip(), ends=bool(end))

    def _rendered(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, asks: bool = False
    ) -> str | None:
        try:
            return self.template.render(messages, tools=tools, asks=asks)
        except TemplateRefusal:
            return None

    def _up_to(self, whole: str, marked: Marked, turn: int) -> str:
        """The whole text up to the end of a turn."""
        own = [mark for mark in marked.marks[turn] if mark in whole]
        if not own:
            raise Unteachable(f"message {turn + 1} (assistant) is not in what the template renders")
        at = whole.index(own[-1]) + len(own[-1])
        ends = [found + len(end) for end in self.ends if (found := whole.find(end, at)) >= 0]
        return whole[: min(ends)] if ends else whole[:at]

    def _start_by_header(self, told: str, own: Sequence[str]) -> int:
        """Where the answer begins behind its header, where no server could be asked for it."""
        first = min((told.index(mark) for mark in own if mark in told), default=len(told))
        at = told.rfind(self._header, 0, first) if self._header else -1
        return at + len(self._header) if at >= 0 else first

    def _continued(self, ask: str, told: str, marked: Marked, turn: int) -> tuple[str, str]:
        """Ask and answer of a template that renders an answered question otherwise."""
        at, last = end_of_last_mark(ask), last_mark(ask)
        place = told.find(last) if at else 0
        if place < 0:
            raise Unteachable(
                f"the chat template leaves out what is asked before message {turn + 1} (assistant)"
            )
        asked, said = ask[at:], told[place + len(last) if at else 0 :]
        shared = self._shared(asked, said)
        asked, said = asked[shared:], said[shared:]
        begins, thought = MARK.split(said)[0].strip(), marked.thought(turn)
        if asked.strip() and not begins and thought and thought in said:
            # The server asks for no thought by itself; a row that has one is asked for it.
            return ask.removesuffix(asked), said
        if not asked.strip() or not re.sub("</?think>", "", asked + begins).strip():
            return ask, said
        if marked.begins(turn, begins):
            return ask, said
        raise Unteachable(
            f"the chat template asks for message {turn + 1} (assistant) with "
            f"{asked.strip()[:80]!r}, which an answer that was given does not begin with"
        )

    def _find_header(self) -> str:
        """What a template writes before each answer, without the thought that it may open."""
        user = {"role": "user", "content": mark(0)}
        ask, told = (self._rendered([user], (), asks=asks) for asks in (True, False))
        if ask is None or told is None:
            return ""
        return re.sub(r"<think>\s*\Z", "", ask[self._shared(ask, told) :])

    def _find_ends(self) -> tuple[str, ...]:
        """The special tokens by which an assistant ends its turn, with and without a tool call."""
        user = {"role": "user", "content": mark(0)}
        plain = {"role": "assistant", "content": mark(1)}
        function = {"name": mark(1), "arguments": {"a": "b"}}
        call = {"id": "call00001", "type": "function", "function": function}
        calling = {"role": "assistant", "content": None, "tool_calls": [call]}
        ends = []
        for message, place in ((plain, 0), (calling, -1)):
            told = self._rendered([user, message], ())
            if told and mark(1) in told:
                behind = told.rpartition(mark(1))[2]
                found = [*self._specials_in(behind)][place:][:1]
                # Of a call, only what ends it: its parts may be between special tokens as well.
                if message is plain or behind.rstrip().endswith(tuple(found)):
                    ends += found
        return tuple(dict.fromkeys(ends))

    def _shared(self, left: str, right: str) -> int:
        """How far two texts are alike, without cutting a token in two."""
        whole = "|".join([*map(re.escape, self._longest_first), r"<[^<>\s]+>"])
        pieces = (re.findall(f"{whole}|.", text, re.DOTALL) for text in (left, right))
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*pieces, strict=False))
        return sum(len(one) for one, _ in alike)

    def _specials_in(self, text: str) -> Iterator[str]:
        if self._longest_first:
            for match in re.finditer("|".join(map(re.escape, self._longest_first)), text):
                yield match.group()

    def _probe_reasoning(self) -> tuple[bool, bool]:
        user = {"role": "user", "content": mark(0)}
        thinks = {"role": "assistant", "content": mark(1), "reasoning_content": mark(2)}
        told, ask = self._rendered([user, thinks], ()), self._rendered([user], (), asks=True)
        renders = bool(told and mark(2) in told)
        return renders, renders or bool(re.search(r"<think>\s*\Z", ask or ""))


def _place(whole: str, answer: _Answer, *, exact: bool) -> Span | None:
    """Where an answer lies in a whole conversation's text; exact: behind just what is asked."""
    if exact:
        start = len(answer.ask)
        return (
            (start, start + len(answer.said))
            if whole.startswith(answer.ask + answer.said)
            else None
        )
    at, last = end_of_last_mark(answer.ask), last_mark(answer.ask)
    place = whole.find(last)
    if place < 0 or not at:
        return None
    start = place + len(last) + len(answer.asked_last)
    is_there = whole.startswith(answer.asked_last + answer.said, place + len(last))
    return (start, start + len(answer.said)) if is_there else None
