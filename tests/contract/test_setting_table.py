"""Hundreds of settings, tried: each is taken by the libraries, refused by name, or told by name."""

from typing import Any

import peft
import pytest
import torch
import yaml
from transformers import get_scheduler
from trl.trainer.sft_config import SFTConfig

from tasks.contract.errors import InvalidTuningConfig
from tasks.contract.training_config import TrainingConfig, parse_training_config

TAKEN: dict[str, dict[str, list[Any]]] = {
    "LoraConfig": {
        "r": [1, 8, 64, "16", 8.0],
        "lora_alpha": [1, 16, 256],
        "lora_dropout": [0, 0.05, 0.9],
        "target_modules": [
            ["q_proj"],
            ["q_proj", "v_proj"],
            "all-linear",
            ".*q_proj",
            "(q|v)_proj",
        ],
        "exclude_modules": [["o_proj"], ".*0.*"],
        "modules_to_save": [["lm_head"]],
        "bias": ["none", "all", "lora_only"],
        "use_rslora": [True, False, "true"],
        "use_dora": [True, False],
        "init_lora_weights": [True, False, "gaussian", "orthogonal"],
        "layers_to_transform": [[0, 1], 1],
        "rank_pattern": [{"q_proj": 4}, {"layers.[01].*": 16}],
        "alpha_pattern": [{"v_proj": 32}],
        "task_type": ["CAUSAL_LM"],
    },
    "TrainingArguments": {
        "per_device_train_batch_size": [1, 64, "4"],
        "num_train_epochs": [0.5, 3, "2"],
        "max_steps": [-1, 1, 1000],
        "max_length": [8, 4096],
        "learning_rate": [1e-6, "2e-5", 1],
        "lr_scheduler_type": ["linear", "cosine", "constant", "constant_with_warmup", "polynomial"],
        "warmup_steps": [0, 10, 0.1],
        "warmup_ratio": [0, 0.1, "0.03"],
        "optim": ["adamw_torch", "adafactor", "sgd", "adamw_8bit", "paged_adamw_8bit", "lion_8bit"],
        "weight_decay": [0, 0.1],
        "adam_beta1": [0, 0.9],
        "adam_beta2": [0.999],
        "adam_epsilon": [1e-8],
        "gradient_accumulation_steps": [1, 32],
        "max_grad_norm": [0, 1.0],
        "label_smoothing_factor": [0, 0.1],
        "neftune_noise_alpha": [5],
        "loss_type": ["nll", "dft"],
        "gradient_checkpointing": [True, False],
        "gradient_checkpointing_kwargs": [{"use_reentrant": False}],
        "logging_steps": [1, 0.1, 50],
        "eval_strategy": ["no", "epoch"],
        "save_strategy": ["no", "epoch", "steps"],
        "save_total_limit": [1, 5],
        "seed": [0, 7],
        "torch_compile": [True],
        "packing": [True, False],
        "dataloader_num_workers": [0, 4],
    },
    "DatasetConfig": {
        "train_test_split": [1, 0.5, "0.9"],
        "shuffle_seed": [0],
        "messages_column": ["chat"],
    },
    "ModelConfig": {"torch_dtype": ["auto", "bfloat16", "float32"]},
    "QuantizationConfig": {
        "bnb_4bit_quant_type": ["nf4", "fp4"],
        "bnb_4bit_use_double_quant": [True, False],
        "llm_int8_skip_modules": [["lm_head"]],
    },
}
REFUSED: dict[str, dict[str, list[Any]]] = {
    "LoraConfig": {
        "r": [0, -1, "eight", 1.5, True, 1e9, [8]],
        "lora_alpha": [0, 0.5, "x"],
        "lora_dropout": [1, 1.5, -0.1, "much"],
        "target_modules": [[], "", "(", [1], 5, [""]],
        "exclude_modules": [[], "["],
        "modules_to_save": [[], "lm_head"],
        "bias": ["bogus", 1],
        "use_rslora": ["yes", 2],
        "init_lora_weights": [
            *("gausian", "pissa", "pissa_niter_16", "olora", "eva", "corda", "loftq", "lora_ga", 3),
        ],
        "layers_to_transform": [["a"], [-1], "x", [True], 1.5],
        "layers_pattern": ["layers"],
        "rank_pattern": [{"q_proj": "two"}, {"q_proj": 0}, {"(": 4}, [1], {"q": True}],
        "alpha_pattern": [{"q_proj": -1}, {"[": 2}, "x"],
        "task_type": ["SEQ_CLS"],
        "layer_replication": [[[0, 4]]],
        "use_qalora": [True],
        "lora_r": [8],
        "lora_rank": [8],
    },
    "TrainingArguments": {
        "per_device_train_batch_size": [0, -1, 1.5, "many"],
        "micro_batch_size": [1],
        "num_train_epochs": [0, -1, "x", 1e9],
        "num_epochs": [3],
        "max_steps": [0, -5, 1.5],
        "max_length": [4, "long", 1e12],
        "cutoff_len": [1024],
        "sequence_len": [1024],
        "learning_rate": [0, -1, 1e9, "fast", "nan", "inf", True],
        "lr_scheduler_type": ["reduce_lr_on_plateau", "cosin", "greedy", 3],
        "lr_scheduler_kwargs": [{"min_lr": 1e-6}, {"bogus": 1}, "x", {"": 1}],
        "warmup_steps": [-1, "x"],
        "warmup_ratio": [1, 5, -0.1],
        "optim": ["muon", "adamw", "galore_adamw"],
        "optim_args": ["lr=3"],
        "weight_decay": [-1],
        "adam_beta1": [1, -0.5],
        "adam_epsilon": [0],
        "gradient_accumulation_steps": [0, 1.5],
        "label_smoothing_factor": [1],
        "neftune_noise_alpha": [0, "x"],
        "loss_type": ["bogus", "chunked"],
        "gradient_checkpointing": ["maybe"],
        "gradient_checkpointing_kwargs": [{"bogus": 1}, True],
        "logging_steps": [0, -1],
        "eval_strategy": ["often"],
        "save_strategy": ["best", "sometimes"],
        "save_total_limit": [0],
        "load_best_model_at_end": [True],
        "metric_for_best_model": ["accuracy", "loss"],
        "torch_compile_backend": ["fast"],
        "torch_compile_mode": ["fast"],
        "seed": [-1, 1e20],
        "deepspeed": ["ds.json"],
        "fsdp": ["full_shard"],
        "trust_remote_code": [True],
        "push_to_hub": [True],
        "lora_alpha": [16],
        "gradient_clipping": [1],
        "use_gradient_checkpointing": ["unsloth"],
        "random_state": [3407],
        "sample_packing": [True],
        "val_set_size": [0.1],
        "learning_rat": [1],
    },
    "DatasetConfig": {
        "train_test_split": [0, 1.5, -0.1, "all"],
        "shuffle_seed": [-1],
        "field_messages": ["chat"],
    },
    "ModelConfig": {"torch_dtype": ["int8", "bf16"], "template": ["llama3"]},
    "QuantizationConfig": {
        "bnb_4bit_quant_type": ["nf3"],
        "load_in_8bit": ["maybe"],
        "quantization_bit": [4],
        "llm_int8_threshold": [-1],
    },
}
TOLD: dict[str, dict[str, list[Any]]] = {
    "LoraConfig": {"fan_in_fan_out": [True], "inference_mode": [True]},
    "TrainingArguments": {
        "bf16": [True],
        "fp16": [True],
        "group_by_length": [True],
        "report_to": ["wandb"],
        "use_liger_kernel": [True],
        "padding_free": [True],
        "assistant_only_loss": [True],
        "auto_find_batch_size": [True],
        "logging_dir": ["/x"],
        "run_name": ["mine"],
        "eval_steps": [5],
        "eval_delay": [5],
        "save_steps": [2],
    },
    "ModelConfig": {"device_map": ["auto"], "attn_implementation": ["flash_attention_2"]},
    "DataCollator": {"mlm": [True]},
}


def each(table: dict[str, dict[str, list[Any]]]) -> list[tuple[str, str, Any]]:
    return [
        (section, name, value)
        for section, names in table.items()
        for name, values in names.items()
        for value in values
    ]


def parse(section: str, name: str, value: Any) -> TrainingConfig:
    text = yaml.safe_dump({"training_config": {section: {name: value}}})
    full = name == "init_lora_weights" and value == "orthogonal"
    return parse_training_config(text, method="lora" if full else "qlora")


def test_two_hundred_settings_are_tried() -> None:
    assert sum(len(each(table)) for table in (TAKEN, REFUSED, TOLD)) >= 200


@pytest.mark.parametrize(("section", "name", "value"), each(TAKEN))
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_is_taken_is_taken_by_the_libraries_too(section: str, name: str, value: Any) -> None:
    config = parse(section, name, value)
    assert not any(f"{section}.{name} " in note for note in config.notes)
    peft.LoraConfig(**config.lora)
    arguments = SFTConfig(**config.training, output_dir="unused", use_cpu=True, report_to="none")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    get_scheduler(arguments.lr_scheduler_type, optimizer, 2, 10)


@pytest.mark.parametrize(("section", "name", "value"), each(REFUSED))
def test_what_is_refused_is_refused_by_name(section: str, name: str, value: Any) -> None:
    with pytest.raises(InvalidTuningConfig, match=rf"\b{name}\b"):
        parse(section, name, value)


@pytest.mark.parametrize(("section", "name", "value"), each(TOLD))
def test_what_has_no_effect_is_told_by_name(section: str, name: str, value: Any) -> None:
    assert any(f"{section}.{name} " in note for note in parse(section, name, value).notes)
