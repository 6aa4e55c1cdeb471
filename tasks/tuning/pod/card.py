"""The adapter's README.md: what was tuned on what, how, how well, and how to load it. Pure."""

import json
from collections.abc import Mapping
from typing import Any

_FRONT = """\
---
base_model: {base_model}
library_name: peft
pipeline_tag: text-generation
tags: [lora, {method}, kaitoflow]
---

# LoRA adapter for {base_model}

Made by Kaitoflow from `{base_model}` (revision `{base_revision}`{commit}) with {method}, on
{rows} rows ({tokens} tokens) of the dataset `{dataset_digest}`{start}.
"""
_LOAD = """
## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base_model}", revision="{base_revision}")
model = PeftModel.from_pretrained(base, "this-folder")
tokenizer = AutoTokenizer.from_pretrained("this-folder")
```

The chat template beside the weights is the one that the adapter was trained with.
"""


def model_card(metrics: Mapping[str, Any]) -> str:
    """The card of what `metrics` tells; the same metrics give the same text."""
    facts = {name: metrics[name] for name in ("base_model", "base_revision", "method")}
    front = _FRONT.format(
        **facts,
        rows=metrics["rows"]["trained"],
        tokens=metrics["tokens"],
        dataset_digest=metrics["dataset_digest"],
        start=_start(metrics.get("continued_from")),
        commit=_commit(metrics),
    )
    return front + _results(metrics) + _settings(metrics["settings"]) + _LOAD.format(**facts)


def _commit(metrics: Mapping[str, Any]) -> str:
    """What a revision that is no commit stood for."""
    commit = metrics.get("base_commit")
    return f", commit `{commit}`" if commit and commit != metrics["base_revision"] else ""


def _start(continued_from: Mapping[str, str] | None) -> str:
    if continued_from is None:
        return ""
    return (
        f",\ngoing on from the adapter `{continued_from['name']}` (`{continued_from['weights']}`)"
    )


def _results(metrics: Mapping[str, Any]) -> str:
    losses = [line["loss"] for line in metrics["history"] if "loss" in line]
    first, last = losses[0], losses[-1]
    lines = [
        "",
        "## Results",
        "",
        f"{metrics['steps']} steps, training loss {first:.3f} at first, {last:.3f} at last.",
    ]
    held_out = metrics["held_out"]
    if metrics["held_out_missing"]:
        lines.append(f"Rows held out could not be compared ({metrics['held_out_missing']}).")
        return "\n".join([*lines, ""])
    if held_out is None:
        return "\n".join([*lines, "No rows were held out.", ""])
    lines += [
        "",
        f"| loss on {held_out['rows']} held-out answers | |",
        "| --- | --- |",
        f"| before | {held_out['loss_before']:.3f} |",
        f"| after | {held_out['loss_after']:.3f} |",
        "",
    ]
    return "\n".join(lines)


def _settings(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
    return f"\n## Settings\n\n```json\n{text}\n```\n"
