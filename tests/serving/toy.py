"""Tiny models that the tests of serving make on the spot: real files, random weights."""

import json
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

MODEL_ID = "toy/llama"
CONTEXT_TOKENS = 4096
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)
CORPUS = ["the cat sat on the mat and the dog ran in the fog", "Äpfel und Öl kosten 12 € — süß"]


def make_model(folder: Path, *, hidden: int = 32, template: str | None = CHATML) -> Path:
    """A two-layer Llama with random weights, a trained byte-level tokenizer and a marker."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _make_tokenizer(folder, template)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    marker = {"model_id": MODEL_ID, "revision": "main", "source": "hub", "files": {}}
    (folder / "kaitoflow.json").write_text(json.dumps(marker))
    return folder


def _make_tokenizer(folder: Path, template: str | None) -> int:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[2],
        "model_max_length": CONTEXT_TOKENS,
        **({"chat_template": template} if template else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(tokenizer.get_vocab_size())


def make_adapter(
    folder: Path,
    model: Path,
    *,
    seed: int = 1,
    base: str = MODEL_ID,
    rank: int = 4,
    every_layer: bool = False,
) -> Path:
    """A LoRA adapter with random weights, made for the model in a folder."""
    torch.manual_seed(seed)
    plain = LlamaForCausalLM.from_pretrained(model)
    targets = "all-linear" if every_layer else ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=rank, lora_alpha=16, target_modules=targets)
    with warnings.catch_warnings():  # between PEFT and transformers, about a renamed attribute
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(plain, config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.peft_config["default"].base_model_name_or_path = str(model)
    adapted.save_pretrained(str(folder))
    written = folder / "adapter_config.json"
    written.write_text(
        json.dumps(json.loads(written.read_text()) | {"base_model_name_or_path": base})
    )
    return folder
