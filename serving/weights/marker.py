"""What a weights folder says of itself, once it is complete."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MARKER = "kaitoflow.json"

Source = Literal["cache", "hub", "wheel", "image"]


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What a complete weights folder says of itself.

    files: name to size in bytes. digests: name to sha256; {} = written before there were any.
    commit: that `revision` stood for; "" = not from the hub.
    """

    model_id: str
    revision: str
    source: Source
    files: dict[str, int]
    digests: dict[str, str] = field(default_factory=dict)
    commit: str = ""

    @property
    def files_digest(self) -> str:
        """One digest of all files by their names and digests; empty where these are not known."""
        if not self.digests:
            return ""
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(self.digests.items()))
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def read_marker(weights_dir: Path) -> Marker | None:
    """The folder's marker; None where there is none that can be read."""
    try:
        return Marker(**json.loads((weights_dir / MARKER).read_text()))
    except (OSError, ValueError, TypeError):
        return None
