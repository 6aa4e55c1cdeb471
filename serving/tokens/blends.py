"""An adapter that is the weighted sum of others, with the chat template that they share."""

from collections.abc import Sequence
from pathlib import Path

from serving.engine import Part
from serving.model.adapters import weights_digest
from serving.model.blending import blend
from serving.tokens.prompts import Prompts
from tasks.contract.errors import AdapterMismatch


def blend_parts(parts: Sequence[Part], folder: Path, *, prompts: Prompts) -> None:
    """Write the sum of adapters as one. Raises: as `Engine.blend`."""
    names = ", ".join(part.source.name for part in parts)
    if changed := [p for p in parts if weights_digest(p.source.path) != p.digest]:
        raise AdapterMismatch(
            f"{names} were to be blended",
            f"the files of {changed[0].source.name} are others than those that were loaded",
            "load it again (load_inplace)",
        )
    sources = [part.source for part in parts]
    template, *others = {prompts.template_of(source) for source in sources}
    if others:
        raise AdapterMismatch(
            f"{names} were to be blended",
            "they were tuned with different chat templates",
            "blend adapters of one template",
        )
    blend(sources, folder)
    if template:
        (folder / "chat_template.jinja").write_text(template)
