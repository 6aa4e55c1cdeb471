"""The real small model, through the real program: an adapter that spoils it is kept out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tasks.contract.gate import Gate
from tasks.contract.podlog import read_answer
from tasks.contract.programs.evaluation import EvaluationResult
from tasks.evaluation.task import verdict_on
from tests.tuning.runs import ENVIRONMENT, ROOT, events_in
from tests.tuning.tiny import chat, write_rows

CAPITALS = (
    "France Paris Italy Rome Spain Madrid Japan Tokyo Peru Lima Egypt Cairo Kenya Nairobi "
    "Cuba Havana Ghana Accra Norway Oslo Austria Vienna Poland Warsaw"
).split()
ROWS = [
    chat(f"What is the capital of {land}?", f"The capital of {land} is {city}.")
    for land, city in zip(CAPITALS[::2], CAPITALS[1::2], strict=True)
]


def adapters(folder: Path, weights: Path, **noise: float) -> dict[str, Path]:
    """Adapters whose weights are noise, by their names; without any they change nothing."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.bfloat16)
    wanted = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, wanted)
    for name, std in noise.items():
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=std)
        adapted.save_pretrained(str(folder / name))
    return {name: folder / name for name in noise}


@pytest.mark.slow
def test_an_adapter_that_spoils_the_model_is_kept_out_and_the_reason_is_told(
    smollm2_weights: Path, tmp_path: Path
) -> None:
    made = adapters(tmp_path, smollm2_weights, serving=0.0, candidate=0.2)
    told = {
        "weights_dir": smollm2_weights,
        "rows_file": write_rows(tmp_path / "rows.jsonl", ROWS),
        **made,
        "method": "lora",
        "answers": 2,
        "max_new_tokens": 24,
    }
    config = tmp_path / "config.json"
    config.write_text(json.dumps(told, default=str), encoding="utf-8")
    program = [sys.executable, "-m", "tasks.evaluation.pod", str(config)]
    ended = subprocess.run(
        program, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    *_, said = events_in(ended.stdout)
    assert said.pop("event") == "result"
    result = read_answer(EvaluationResult, said)
    verdict = verdict_on(result, Gate(rows=12), candidate_name="a@2", serving_name="a@1")
    assert not verdict.passed
    assert verdict.reason.startswith("kept a@1: candidate's ")
    assert verdict.with_serving
    assert verdict.with_serving.low > 0.05
    assert result.serving
    assert result.serving.losses == pytest.approx(result.base.losses, abs=0.01)
