"""TRL's SFTTrainer in each of the ways in which `bench_tuning.py` wants it. Told: step by step.

The last line has the tokens that were trained on, padding left out, tokens per second of the
training steps, and where the adapter lies.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

# Of adapters, not of whole models: QLoRA (arXiv 2305.14314), table 9.
_LEARNING_RATE = 2e-4
_ROWS_PER_STEP = 4  # of 64 rows, its default of eight makes eight steps
_WELL_SET: dict[str, Any] = {
    "learning_rate": _LEARNING_RATE,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "per_device_train_batch_size": _ROWS_PER_STEP,
    # It saves memory that is not short here, and costs a quarter of the speed.
    "gradient_checkpointing": False,
}
_WAYS: dict[str, dict[str, Any]] = {
    "trl_groups": {**_WELL_SET, "train_sampling_strategy": "group_by_length"},
    # One sequence of 1,024 tokens holds about as many rows as a step of the others.
    "trl_packed": {**_WELL_SET, "packing": True, "per_device_train_batch_size": 1},
    "trl_padding_free": {**_WELL_SET, "padding_free": True},
    "trl_defaults": {},
    "kaito_like": {
        "learning_rate": _LEARNING_RATE,
        "per_device_train_batch_size": 1,
        "gradient_checkpointing": True,
    },
}
_ALL_OF_THE_TEXT = ("trl_defaults", "kaito_like")


def main() -> None:
    """Train, and say what came of it."""
    options = _options()
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    torch.manual_seed(0)
    quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        options.weights,
        dtype=torch.bfloat16,
        quantization_config=quantization if options.method == "qlora" else None,
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(options.folder / "checkpoints"),
            num_train_epochs=1,
            max_length=1024,
            logging_steps=1,
            save_strategy="steps" if options.save_every else "no",
            save_steps=options.save_every or 500,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            **_WAYS[options.side],
        ),
        train_dataset=Dataset.from_list(_rows(options)),
        processing_class=AutoTokenizer.from_pretrained(options.weights),
        peft_config=LoraConfig(
            r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[_teller()],
    )
    ended = trainer.train()
    tokens = next(int(line["num_tokens"]) for line in reversed(trainer.state.log_history))
    adapter = options.folder / "adapter"
    trainer.save_model(str(adapter))
    told = {
        "tokens": tokens,
        "tokens_per_s": tokens / ended.metrics["train_runtime"],
        "adapter": str(adapter),
    }
    sys.stdout.write(f"\n{json.dumps(told)}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=[*_WAYS])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", choices=["lora", "qlora"], required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--save-every", type=int, default=0)
    return parser.parse_args()


def _rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """As TRL learns from them: all of a conversation, or the answer to what is before it."""
    lines = options.data.read_text("utf-8").splitlines()
    talks = [json.loads(line)["messages"] for line in lines]
    if options.side in _ALL_OF_THE_TEXT:
        return [{"messages": talk} for talk in talks]
    return [{"prompt": talk[:-1], "completion": talk[-1:]} for talk in talks]


def _teller() -> Any:
    from transformers import TrainerCallback

    class Tell(TrainerCallback):
        """One line a step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, control
            sys.stdout.write(f"\n{json.dumps({'step': state.global_step})}\n")
            sys.stdout.flush()

    return Tell()


if __name__ == "__main__":
    main()
