"""What the index of an image layout on this machine's disk names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.remote.manifest import blob_path

REF_NAME = "org.opencontainers.image.ref.name"


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """The entries of a layout's index; none where there is no layout yet."""
    index = folder / "index.json"
    if not index.exists():
        return []
    entries: list[dict[str, Any]] = json.loads(index.read_bytes())["manifests"]
    return entries


def named(entry: Mapping[str, Any]) -> str:
    """The name that an entry has; empty = none."""
    name: str = entry.get("annotations", {}).get(REF_NAME, "")
    return name


def find_manifest(folder: Path, reference: str) -> str | None:
    """The digest of the manifest that `reference` names; None = it is not there.

    A name with a digest is there when that manifest is, whatever its tag names by now.
    """
    _, at, digest = reference.partition("@")
    if at:
        return digest if (folder / blob_path(digest)).is_file() else None
    return next((one["digest"] for one in read_entries(folder) if named(one) == reference), None)
