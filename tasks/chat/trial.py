"""A template tried: in a process of its own, whose time and memory are bounded."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from tasks.chat.bounds import TemplateOverrun, TemplateRefusal
from tasks.chat.template import ChatTemplate
from tasks.contract import apart
from tasks.contract.errors import InvalidTuningConfig

_MOST_CHARACTERS = 2**20


def try_chat_template(asked: str) -> None:
    """Nothing, if the template is a path or renders a question and its answer.

    Raises: InvalidTuningConfig: it is no Jinja, or names what no conversation has.
    """
    # Paths are in the container, and looked at there.
    if "{" not in asked and "\n" not in asked:
        return
    talk = [{"role": "user", "content": "Six?"}, {"role": "assistant", "content": "Seven."}]
    try:
        text = render_apart(asked, talk)
    except TemplateRefusal as error:
        raise InvalidTuningConfig(
            "ModelConfig.chat_template was tried on a question and its answer",
            f"it cannot be rendered ({error})",
            "correct the template",
        ) from error
    missing = [turn["content"] for turn in talk if turn["content"] not in text]
    if missing:
        raise InvalidTuningConfig(
            "ModelConfig.chat_template was tried on a question and its answer",
            f"its text {text[:60]!r} does not hold {missing[0]!r}",
            "correct the template",
        )


def render_apart(template: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """The beginning of the conversation's text, whatever the template does.

    Raises: TemplateRefusal; TemplateOverrun: it takes too much time or memory.
    """
    try:
        told = apart.ask(__name__, {"template": template, "messages": messages})
    except apart.Overrun as error:
        raise TemplateOverrun(str(error)) from None
    if "overrun" in told:
        raise TemplateOverrun(told["overrun"])
    if "refusal" in told:
        raise TemplateRefusal(told["refusal"])
    return str(told["text"])


def _rendered(asked: Mapping[str, Any]) -> dict[str, str]:
    try:
        template = ChatTemplate(asked["template"], {"bos_token": "<s>", "eos_token": "</s>"})
        return {"text": template.render(asked["messages"])[:_MOST_CHARACTERS]}
    except TemplateOverrun as error:
        return {"overrun": str(error)}
    except (TemplateError, TemplateRefusal) as error:
        return {"refusal": str(error)}


if __name__ == "__main__":
    apart.serve(_rendered)
