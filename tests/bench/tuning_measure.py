"""The held-out loss of adapters, and how many of their answers stop; knows no trainer.

Run as `python tests/bench/tuning_measure.py [--stops] WEIGHTS ROWS [ADAPTER...]`; without an
adapter the base model is measured. The base model is loaded in bfloat16, as it is served, and PEFT
puts each adapter on. Prints a list, in the order of what was given.

The loss is the mean over the tokens of the rows' last answers with their end token, in natural
logarithms: what the chat template makes of the whole conversation, behind what it makes of it up to
where the assistant is to answer.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

_ASKED, _MOST_TOKENS = 16, 128


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stops", action="store_true", help="have some questions answered, too")
    parser.add_argument("weights", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("adapters", type=Path, nargs="*")
    options = parser.parse_args()
    talks = [json.loads(line)["messages"] for line in options.rows.read_text("utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(options.weights, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(options.weights, dtype=torch.bfloat16)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def measure() -> dict[str, float]:
        stop_rate = _stop_rate(model, tokenizer, talks[:_ASKED]) if options.stops else 0.0
        return {"loss": _loss(model, tokenizer, talks), "stop_rate": stop_rate}

    told = [] if options.adapters else [measure()]
    for number, folder in enumerate(options.adapters):
        if number == 0:
            model = PeftModel.from_pretrained(model, folder, adapter_name="0").eval()
        else:
            model.load_adapter(folder, adapter_name=str(number))
        model.set_adapter(str(number))
        told.append(measure())
        model.set_adapter("0")
        if number:
            model.delete_adapter(str(number))
    sys.stdout.write(json.dumps(told) + "\n")


@torch.no_grad()
def _loss(model: Any, tokenizer: Any, talks: list[Any]) -> float:
    total, tokens = 0.0, 0
    for talk in talks:
        whole = tokenizer.apply_chat_template(talk, tokenize=False)
        asked = tokenizer.apply_chat_template(talk[:-1], tokenize=False, add_generation_prompt=True)
        assert whole.startswith(asked), "the template rewrites what stands before the answer"
        # The newline that templates put behind the last end token is nobody's to say.
        ids = tokenizer(whole.rstrip("\n"), add_special_tokens=False, return_tensors="pt").input_ids
        before = len(tokenizer(asked, add_special_tokens=False).input_ids)
        ids = ids.to(model.device)
        logits = model(input_ids=ids).logits[0, before - 1 : -1].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, before:], reduction="sum"))
        tokens += ids.shape[1] - before
    return total / tokens


@torch.no_grad()
def _stop_rate(model: Any, tokenizer: Any, talks: list[Any]) -> float:
    """The share of greedy answers that end by themselves within so many tokens."""
    prompts = [
        tokenizer.apply_chat_template(talk[:-1], tokenize=False, add_generation_prompt=True)
        for talk in talks
    ]
    asked = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
    asked = asked.to(model.device)
    answers = model.generate(
        **asked, max_new_tokens=_MOST_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    new = answers[:, asked.input_ids.shape[1] :]
    ends = model.generation_config.eos_token_id
    ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=new.device)
    return float(torch.isin(new, ends).any(dim=1).float().mean())


if __name__ == "__main__":
    main()
