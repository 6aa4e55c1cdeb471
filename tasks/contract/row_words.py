"""Every key that a dataset's row or message may have and that means something here or elsewhere.

Pure data; the treatment is one of

    honoured      it decides what is trained on
    refused       it would change what the row means and cannot be honoured: the row is told
    no effect     it changes nothing about what is trained on
"""

from types import MappingProxyType
from typing import Literal

Treatment = Literal["honoured", "refused", "no effect"]

_HONOURED: Treatment = "honoured"
_REFUSED: Treatment = "refused"
_NO_EFFECT: Treatment = "no effect"

ROW_WORDS: MappingProxyType[str, Treatment] = MappingProxyType(
    dict.fromkeys(
        (
            *("messages", "conversations", "conversation", "prompt", "completion", "text"),
            *("instruction", "input", "output", "response", "answer", "answers"),
            *("question", "query", "context", "system", "system_prompt", "tools", "functions"),
            # Of a row that is not to be learned: label is false where an answer is a bad one.
            *("label", "weight", "train"),
        ),
        _HONOURED,
    )
    # One message of a tree, where the tree is needed to know what it answers.
    | dict.fromkeys(("message_id", "parent_id", "role"), _REFUSED)
    | dict.fromkeys(("id", "source", "parallel_tool_calls"), _NO_EFFECT)
)
MESSAGE_WORDS: MappingProxyType[str, Treatment] = MappingProxyType(
    dict.fromkeys(
        (
            *("role", "from", "content", "value", "weight", "train", "training"),
            *("reasoning_content", "reasoning", "thinking"),
            # name: of a tool's result. That of a person is told as not used.
            *("tool_calls", "function_call", "tool_call_id", "name"),
        ),
        _HONOURED,
    )
    | dict.fromkeys(("id",), _NO_EFFECT)
)
