"""TRL's training forms of known chat templates: they render each turn alike, however many follow.

Read as files: importing TRL takes seconds and loads torch.
"""

import functools
from importlib.util import find_spec
from pathlib import Path


def training_form(source: str) -> str | None:
    """The training form of a chat template that TRL knows, to the letter; else None."""
    return _forms().get(source.strip())


@functools.cache
def _forms() -> dict[str, str]:
    spec = find_spec("trl")
    if spec is None or not spec.origin:
        return {}
    folder = Path(spec.origin).parent / "chat_templates"
    forms = {}
    for path in sorted(folder.glob("*_training.jinja")):
        served = path.with_name(path.name.replace("_training", ""))
        if served.is_file():
            forms[served.read_text(encoding="utf-8").strip()] = path.read_text(encoding="utf-8")
    return forms
