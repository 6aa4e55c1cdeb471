"""Rendered conversations as token ids, for the server, the trainer and who counts tokens alike.

What the template writes is special, what somebody says is text. Of texts that spell no special
token this is what the tokenizer makes of them by itself.
"""

import copy
import random
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from tokenizers import AddedToken, Tokenizer

from tasks.chat.literals import Rendered, SpecialTokenSaid

_PRIVATE = range(0xE000, 0xF900)  # characters that mean nothing, and no normaliser changes


@dataclass(frozen=True)
class Encoded:
    """Token ids, and where the text of each begins and ends."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class RenderedEncoder:
    """Encodes by one tokenizer, in several threads at once where nobody else changes it."""

    def __init__(self, tokenizer: Tokenizer, controls: Collection[str]) -> None:
        """Encode what a template writes; controls: as `control_texts` has them."""
        self._tokenizer = tokenizer
        self._controls = controls

    def encode(self, rendered: Rendered) -> Encoded:
        """The ids of a rendering. Raises: SpecialTokenSaid: the tokenizer cannot keep it text."""
        if not rendered.literals:
            encoding = self._tokenizer.encode(rendered.text, add_special_tokens=False)
            return Encoded(encoding.ids, encoding.offsets)
        careful = self._careful  # of threads that come at once each may make its own
        written, count = careful.stand_ins(rendered)
        encoding = careful.tokenizer.encode(written, add_special_tokens=False)
        ids = [careful.ids.get(one, one) for one in encoding.ids]
        if sum(one in careful.control_ids for one in ids) != count:
            raise SpecialTokenSaid(
                f"{rendered.text[slice(*rendered.literals[0])]} is said, a special token of the"
                " model, which its tokenizer has no way to take for text"
            )
        return Encoded(ids, encoding.offsets)

    @cached_property
    def _careful(self) -> "_Careful":
        return _Careful(self._tokenizer, self._controls)


class _Careful:
    """A tokenizer to which special tokens are text, and stand-ins of their length are special."""

    def __init__(self, tokenizer: Tokenizer, controls: Collection[str]) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        added = tokenizer.get_added_tokens_decoder()
        tokens = {
            token.content: (number, token)
            for number, token in added.items()
            if token.special or token.content in controls
        }
        source = random.SystemRandom()  # nobody can say a stand-in
        self._of = {
            text: "".join(chr(source.choice(_PRIVATE)) for _ in range(len(text))) for text in tokens
        }
        self.tokenizer.add_special_tokens(
            [_like(token, text) for text, (_, token) in tokens.items()]
        )
        self.tokenizer.add_tokens(
            [_like(token, self._of[text], special=False) for text, (_, token) in tokens.items()]
        )
        self.tokenizer.encode_special_tokens = True
        self.control_ids = {number for number, _ in tokens.values()}
        self.ids = {
            self.tokenizer.token_to_id(self._of[text]): number
            for text, (number, _) in tokens.items()
        }
        longest_first = sorted(tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)))

    def stand_ins(self, rendered: Rendered) -> tuple[str, int]:
        """The text with stand-ins for what the template wrote, and how many those are."""
        text, places = rendered.text, [(0, 0), *rendered.literals, (len(rendered.text),) * 2]
        written, count = "", 0
        for (start, end), (following, _) in pairwise(places):
            between, replaced = self._special.subn(
                lambda found: self._of[found.group()], text[end:following]
            )
            written += text[start:end] + between
            count += replaced
        return written, count


def _like(token: AddedToken, text: str, *, special: bool = True) -> AddedToken:
    return AddedToken(
        text,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=special,
    )
