"""`kaitoflow models`: the catalogue, and what can be done here with each model of it."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from flows.commands.show import columns
from tasks.contract.training_config import parse_training_config
from tasks.contract.workspace import SERVE_ANNOTATION, Workspace, parse_workspace
from tasks.plan.findings import Findings
from tasks.plan.nodes import cheapest_that_fits
from tasks.plan.size import Run
from tasks.presets import Preset, catalogue, find_preset
from tasks.settings import settings
from tasks.skus.prices import price_table

_METHODS = ("qlora", "lora")


def show_models(names: Sequence[str], *, cloud: str | None, output: str) -> int:
    """Print each model, or those named, with what it can do and the cheapest machine for it.

    Raises: UnknownPreset.
    """
    found = [find_preset(name) for name in names] or [*catalogue().values()]
    told = [_fields(preset, cloud) for preset in found]
    if output == "json":
        sys.stdout.write(json.dumps({"models": told}, indent=2) + "\n")
    elif output == "yaml":
        sys.stdout.write(yaml.safe_dump({"models": told}, sort_keys=False))
    else:
        sys.stdout.write(columns([_row(each, is_wide=output == "wide") for each in told]))
    return 0


def _fields(preset: Preset, cloud: str | None) -> dict[str, Any]:
    return {
        "name": preset.name,
        "model": preset.model,
        "revision": preset.revision,
        "architecture": preset.architecture,
        "sizeGiB": preset.size_gib,
        "licence": preset.licence,
        "isGated": preset.gated,
        "contextTokens": preset.context_tokens,
        "tunes": {
            method: _use(preset, method, preset.why_not_tuned(method), cloud) for method in _METHODS
        },
        "serves": _use(preset, None, preset.why_not_served(), cloud),
    }


def _use(preset: Preset, method: str | None, why_not: str, cloud: str | None) -> dict[str, str]:
    """`whyNot`, or the cheapest machine that it fits; empty where none does, or has a price."""
    if why_not:
        return {"whyNot": why_not}
    config = parse_training_config(None, method=method) if method else None
    run = Run(workspace=_asking(preset, method), preset=preset, config=config)
    findings = Findings(prices=price_table(settings().price_table))
    cheapest = cheapest_that_fits(run, cloud, findings)
    return {"cheapest": cheapest.name if cheapest else ""}


def _asking(preset: Preset, method: str | None) -> Workspace:
    """A Workspace that asks for the one thing alone."""
    metadata: dict[str, Any] = {"name": "models"}
    use: dict[str, Any] = {"preset": {"name": preset.model}}
    if method is None:
        return parse_workspace({"metadata": metadata, "inference": use}, source="the catalogue")
    metadata["annotations"] = {SERVE_ANNOTATION: "false"}
    use |= {
        "method": method,
        "input": {"urls": ["https://example.com/rows.jsonl"]},
        "output": {"image": "example.com/adapter:1", "imagePushSecret": "push"},
    }
    return parse_workspace({"metadata": metadata, "tuning": use}, source="the catalogue")


def _row(told: Mapping[str, Any], *, is_wide: bool) -> Mapping[str, str]:
    size, context = told["sizeGiB"], told["contextTokens"]
    row = {
        "NAME": told["name"],
        "SIZE": f"{size:.1f} GiB" if size else "unknown",
        "CONTEXT": f"{context // 1024}k" if context else "unknown",
        "LICENCE": f"{told['licence'] or 'unknown'}{' (gated)' if told['isGated'] else ''}",
        "QLORA": _cell(told["tunes"]["qlora"]),
        "LORA": _cell(told["tunes"]["lora"]),
        "SERVE": _cell(told["serves"]),
    }
    if is_wide:
        row["REVISION"] = told["revision"][:12]
        whys = [told["tunes"]["qlora"], told["tunes"]["lora"], told["serves"]]
        row["WHY NOT"] = "; ".join(dict.fromkeys(why["whyNot"] for why in whys if "whyNot" in why))
    return row


def _cell(use: Mapping[str, str]) -> str:
    return "no" if "whyNot" in use else use["cheapest"] or "no machine known"
