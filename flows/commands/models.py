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
_ABOUT = (
    "What the catalogue's models are tuned and served by, each proved by a tiny random model of\n"
    "its architecture. `kaitoflow models` says on which machine each fits; any other model of the\n"
    "Hugging Face hub is named as `OWNER/NAME`, and the plan says what can be done with it."
)


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
        whys = _reasons(told) if output != "wide" else []
        sys.stdout.write(columns([_row(each, whys, is_wide=output == "wide") for each in told]))
        sys.stdout.write("".join(f"({at}) {why}\n" for at, why in enumerate(whys, start=1)))
    return 0


def models_page() -> str:
    """The catalogue as docs/models.md: what each model is tuned and served by, and why not."""
    uses = {preset.name: _engines_and_methods(preset) for preset in catalogue().values()}
    whys = [*dict.fromkeys(why for use in uses.values() for why in use.values() if why)]
    heads = [*next(iter(uses.values()))]
    rows = [
        (
            f"`{preset.name}`",
            _size(preset.size_gib),
            preset.licence or "unknown",
            *(
                f"no ({whys.index(why) + 1})" if why else "yes"
                for why in uses[preset.name].values()
            ),
        )
        for preset in catalogue().values()
    ]
    notes = [f"{at}. {why}" for at, why in enumerate(whys, start=1)]
    return "\n".join(
        (
            "# Models",
            "",
            _ABOUT,
            "",
            f"| model | size | licence | {' | '.join(heads)} |",
            f"| --- | ---: | --- |{' --- |' * len(heads)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            "Why not:",
            "",
            *notes,
            "",
        )
    )


def _engines_and_methods(preset: Preset) -> dict[str, str]:
    """Why not, empty where it is, by what a column of the page says."""
    return {
        "tuned by qlora": preset.why_not_tuned("qlora"),
        "tuned by lora": preset.why_not_tuned("lora"),
        "served by our engine": preset.why_not_served("transformers"),
        "served by vLLM": preset.why_not_served("vllm"),
        "adapters by vLLM": preset.why_not_served("vllm") or preset.why_no_adapters("vllm"),
    }


def _reasons(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why some are not tuned or served, each reason once."""
    uses = (use for each in told for use in (*each["tunes"].values(), each["serves"]))
    return [*dict.fromkeys(use["whyNot"] for use in uses if "whyNot" in use)]


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


def _row(told: Mapping[str, Any], whys: Sequence[str], *, is_wide: bool) -> Mapping[str, str]:
    context = told["contextTokens"]
    row = {
        "NAME": told["name"],
        "SIZE": _size(told["sizeGiB"]),
        "CONTEXT": f"{context // 1024}k" if context else "unknown",
        "LICENCE": f"{told['licence'] or 'unknown'}{' (gated)' if told['isGated'] else ''}",
        "QLORA": _cell(told["tunes"]["qlora"], whys),
        "LORA": _cell(told["tunes"]["lora"], whys),
        "SERVE": _cell(told["serves"], whys),
    }
    if is_wide:
        row["REVISION"] = told["revision"][:12]
        row["WHY NOT"] = "; ".join(_reasons([told]))
    return row


def _size(gib: float | None) -> str:
    return f"{gib:.1f} GiB" if gib else "unknown"


def _cell(use: Mapping[str, str], whys: Sequence[str]) -> str:
    """The cheapest machine, or no, with the number of the reason where these are told apart."""
    if "whyNot" not in use:
        return use["cheapest"] or "no machine known"
    return f"no ({whys.index(use['whyNot']) + 1})" if whys else "no"
