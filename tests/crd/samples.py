"""Samples of Workspaces as data: a base manifest, and what each sample changes in it."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent
_BASES: dict[str, dict[str, Any]] = yaml.safe_load((_HERE / "bases.yaml").read_text())


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One Workspace and what is said of it.

    server: what the API server's refusal has to say, a regular expression; None = it is accepted.
    model: the same of the pydantic model.
    """

    title: str
    manifest: dict[str, Any]
    server: str | None = None
    model: str | None = None

    def __str__(self) -> str:
        return self.title


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A Workspace before and after an edit; says: as in Sample."""

    title: str
    before: dict[str, Any]
    after: dict[str, Any]
    says: str | None = None

    def __str__(self) -> str:
        return self.title


def refused_samples() -> list[Sample]:
    """Workspaces that break one rule each. `model: false` = it is not for the model to judge."""
    return [
        Sample(
            title=entry["breaks"],
            manifest=manifest(entry["base"], entry["set"]),
            server=entry["says"],
            model=_of_the_model(entry),
        )
        for entry in _entries("refused.yaml")
    ]


def _of_the_model(entry: dict[str, Any]) -> str | None:
    judged = entry.get("model", entry["says"])
    return None if judged is False else str(judged)


def accepted_samples() -> list[Sample]:
    """Workspaces at the edge of a rule, each in order."""
    return [
        Sample(title=entry["has"], manifest=manifest(entry["base"], entry["set"]))
        for entry in _entries("accepted.yaml")
    ]


def edits() -> list[Edit]:
    """Edits that are refused (`says`), and those that are not."""
    return [_edit(entry) for entry in _entries("edits.yaml")]


def _edit(entry: dict[str, Any]) -> Edit:
    before = manifest(entry["base"], entry.get("before", {}))
    after = _changed(before, entry["after"])
    return Edit(title=entry["edit"], before=before, after=after, says=entry.get("says"))


def urls(kind: str) -> list[str]:
    """Dataset URLs that are `refused` or `accepted` on a cluster."""
    found: list[str] = yaml.safe_load((_HERE / "urls.yaml").read_text())[kind]
    return found


def manifest(base: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A base manifest with fields set by dotted path; null removes a field."""
    return _changed(_BASES[base], changes)


def _changed(given: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(given)
    for path, value in changes.items():
        *parents, last = path.split(".")
        part: Any = changed
        for name in parents:
            part = part[int(name)] if isinstance(part, list) else part.setdefault(name, {})
        if value is None:
            del part[last]
        else:
            part[int(last) if isinstance(part, list) else last] = value
    return changed


def _entries(name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = yaml.safe_load((_HERE / name).read_text())
    return entries
