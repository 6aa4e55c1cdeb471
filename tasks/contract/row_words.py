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
            *("question", "query", "context", "system", "system_prompt"),
        ),
        _HONOURED,
    )
    # tools: no template is given any. label: false marks an answer that is not to be learned.
    | dict.fromkeys(("tools", "functions", "label", "weight", "train"), _REFUSED)
    | dict.fromkeys(("id", "source", "parallel_tool_calls"), _NO_EFFECT)
)
MESSAGE_WORDS: MappingProxyType[str, Treatment] = MappingProxyType(
    dict.fromkeys(("role", "from", "content", "value"), _HONOURED)
    | dict.fromkeys(("tool_calls", "function_call", "weight", "train"), _REFUSED)
    | dict.fromkeys(("name", "id", "tool_call_id"), _NO_EFFECT)
)
