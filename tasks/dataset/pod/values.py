"""Values of rows: what they are in words, and whether they are text. Pure."""

from collections.abc import Mapping, Sequence

from tasks.dataset.pod.rows import Unfit


def as_text(value: object, named: str) -> str:
    """The text that a value is. Raises: Unfit: it is none, or empty."""
    if value is None:
        raise Unfit(f"{named} is null")
    text = unempty(value, named)
    if not text.strip():
        raise Unfit(f"{named} is empty")
    return text


def unempty(value: object, named: str) -> str:
    """The text that a value is, be it empty. Raises: Unfit."""
    if not isinstance(value, str):
        raise Unfit(f"{named} is {kind_of(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unfit(f"{named} has half of a \\u surrogate pair, which is no character") from None
    return value


def holds_something(name: str, value: object) -> bool:
    """Whether it would be missed: an empty value, or one that changes nothing, asks for nothing."""
    if name in ("weight", "train", "training"):
        return value is not None and value not in (True, 1)
    if name == "label" and isinstance(value, bool):
        return not value
    return value is not None and value not in ("", [], {})


def kind_of(value: object) -> str:
    """What a value is, in words that need no programming."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, bytes):
        return "binary data"
    return "a list" if isinstance(value, Sequence) else f"a {type(value).__name__}"


def listed(values: Mapping[str, object]) -> str:
    """The names of a row's or message's parts, not all where they are many."""
    names = [str(name)[:40] for name in values]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more if names else "nothing"
