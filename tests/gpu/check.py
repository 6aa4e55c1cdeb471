"""Everything that only a real GPU can prove, in one pass of under eight minutes: `make gpu-check`.

Run as `python -m tests.gpu.check`; `--dry` runs it in small on a CPU, to see that it works. Each
part is guarded and timed, and what it found is in build/gpu-check.json at once. A part for which
the machine lacks something, or time, is skipped by name. Needs no network: weights are random, of a
real shape (GPU_CHECK_SHAPE: 8b, 3.8b, 1b).
"""

import argparse
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from serving.engine import Sampling
from serving.model.loading import find_device, load_base_model, preferred_dtype
from tasks.contract.programs.serving import AdapterSource
from tasks.contract.programs.tuning import TuningConfig
from tasks.contract.shapes import TuningShape
from tasks.contract.training_config import parse_training_config
from tasks.estimate import GIB, tuning_memory_gib
from tasks.presets import catalogue
from tasks.tuning.pod.memory import read_shape
from tasks.tuning.pod.model import load_tuning_model
from tasks.tuning.pod.train import main as train
from tests.gpu.architectures import BUILT, write_tiny
from tests.gpu.engine_load import ask_at_once, engine_of
from tests.gpu.trainer_run import ROOT, rows_of, run_config, run_program
from tests.tuning.tiny import chats, tiny_tokenizer, write_rows

Found = dict[str, Any]
# Width, feed-forward, layers, heads, heads of keys, vocabulary.
_SHAPES = {
    "8b": (4096, 14336, 32, 32, 8, 128256),
    "3.8b": (3072, 8192, 32, 32, 32, 32064),
    "1b": (2048, 8192, 16, 32, 8, 128256),
    "tiny": (64, 128, 2, 4, 2, 512),
}
_VERSIONS = ("transformers", "trl", "peft", "bitsandbytes", "accelerate", "triton")
_WITHOUT_COMPILER = """
import torch
from trl.trainer.utils import _ChunkedLogProbFunction as loss
hidden = torch.randn(64, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
head = torch.randn(512, 64, device="cuda", dtype=torch.bfloat16)
asked = torch.randint(0, 512, (64,), device="cuda")
wanted = ("log_probs", "entropy", "is_top1")
told = loss.apply(hidden, head, None, asked, 1.0, 32768, None, 1.0, wanted)
(-told[0].sum()).backward()
print("ok")
"""


class LackError(Exception):
    """What the machine does not have for a part; its text is told."""


@dataclass
class Check:
    """One pass: where it works, what it found so far, and how long it may take."""

    is_dry: bool
    work: Path
    written: Path
    budget_s: float
    began_s: float = field(default_factory=time.monotonic)
    found: Found = field(default_factory=dict)

    @property
    def has_gpu(self) -> bool:
        return torch.cuda.is_available()

    @property
    def left_s(self) -> float:
        return self.budget_s - (time.monotonic() - self.began_s)

    @property
    def weights(self) -> Path:
        return self.work / "model"

    def part(self, name: str, look: "Callable[[Check], Found]", *, least_s: float = 0) -> None:
        """Keep what one part finds, and go on whatever happens in it."""
        began_s = time.monotonic()
        try:
            self._need_time(least_s)
            told = look(self)
        except LackError as lack:
            told = {"skipped": str(lack)}
        except Exception as error:  # noqa: BLE001  the next part may still prove something
            told = {"failed": f"{type(error).__name__}: {error}"[:1500]}
        told["seconds"] = round(time.monotonic() - began_s, 1)
        self.found[name] = told
        sys.stdout.write(f"{name}: {json.dumps(told)}\n")
        sys.stdout.flush()
        self.written.parent.mkdir(parents=True, exist_ok=True)
        self.written.write_text(json.dumps(self.found, indent=1))
        gc.collect()
        torch.cuda.empty_cache()

    def _need_time(self, least_s: float) -> None:
        if self.left_s < least_s:
            raise LackError(f"{self.left_s:.0f} s are left, and it takes {least_s:.0f}")

    def need_gpu(self) -> None:
        if not self.has_gpu:
            raise LackError("no GPU")

    def peak_gib(self) -> float:
        """The most memory since it was asked the last time; on a CPU since the beginning."""
        if not self.has_gpu:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
        peak = torch.cuda.max_memory_allocated() / GIB
        torch.cuda.reset_peak_memory_stats()
        return peak

    def wait(self) -> None:
        """Until the GPU has done what it was told."""
        if self.has_gpu:
            torch.cuda.synchronize()


def machine(check: Check) -> Found:
    """What is there, and how fast it is at best."""
    told: Found = {"torch": torch.__version__, "cuda": torch.version.cuda}
    told |= {name: version(name) for name in _VERSIONS}
    told["compiler"] = shutil.which("gcc") or shutil.which("cc")
    if not check.has_gpu:
        return told | {"gpus": []}
    gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    told["gpus"] = [f"{gpu.name}, {gpu.total_memory / GIB:.2f} GiB" for gpu in gpus]
    free = [torch.cuda.mem_get_info(n)[0] for n in range(torch.cuda.device_count())]
    told["free_gib"] = [round(each / GIB, 2) for each in free]
    told["kernels"] = torch.cuda.get_arch_list()
    square = torch.randn(8192, 8192, device="cuda", dtype=preferred_dtype("cuda"))
    told["tflops"] = round(2 * 8192**3 / _seconds(check, lambda: square @ square) / 1e12)
    there, back = (torch.empty(GIB, dtype=torch.uint8, device="cuda") for _ in range(2))
    told["copy_gb_per_s"] = round(2 * GIB / _seconds(check, lambda: back.copy_(there)) / 1e9)
    one = torch.zeros(1, device="cuda")
    told["us_per_launch"] = round(_seconds(check, lambda: one.add_(1), times=2000) * 1e6, 2)
    return told


def _seconds(check: Check, act: Callable[[], Any], *, times: int = 5) -> float:
    for _ in range(3):
        act()
    check.wait()
    began_s = time.perf_counter()
    for _ in range(times):
        act()
    check.wait()
    return (time.perf_counter() - began_s) / times


def compiler(check: Check) -> Found:
    """The trainer's loss with the C compiler of the PATH, and without any."""
    check.need_gpu()
    told = {}
    for name, path in (("with", os.environ["PATH"]), ("without", "/nonexistent")):
        own = {"PATH": path, "TRITON_CACHE_DIR": str(check.work / f"triton-{name}")}
        done = subprocess.run(
            [sys.executable, "-c", _WITHOUT_COMPILER],
            env={key: value for key, value in os.environ.items() if key != "CC"} | own,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        said = done.stdout.split() or done.stderr.strip().splitlines()[-1:]
        told[name] = " ".join(said)
    return told


def architectures(check: Check) -> Found:
    """What the catalogue says is tuned and served, on a tiny model of each architecture."""
    told = {}
    for name in sorted(BUILT)[: 1 if check.is_dry else None]:
        if check.left_s < 20:
            told[name] = "skipped: too little time is left"
            continue
        folder = check.work / "tiny" / name
        weights = write_tiny(name, folder / "model")
        rows = write_rows(folder / "rows.jsonl", chats(12))
        limit = {"max_steps": 1, "per_device_train_batch_size": 2}
        told[name] = _proved(name, run_config(folder, weights=weights, rows=rows, training=limit))
    return told


def _proved(architecture: str, config: TuningConfig) -> str:
    serves = next(one.serves for one in catalogue().values() if one.architecture == architecture)
    done = []
    try:
        train(config)
        done.append("tuned")
        if serves["transformers"] == "works":
            engine = engine_of(config.weights_dir)
            ask_at_once(engine, "base", 2, prompt=9, tokens=2, sampling=Sampling())
            engine.close()
            done.append("served")
    except Exception as error:  # noqa: BLE001  the next architecture may still work
        done.append(f"failed: {type(error).__name__}: {error}"[:300])
    return ", ".join(done)


def random_weights(check: Check) -> Found:
    """A model of a real shape, whose weights mean nothing and cost as much as real ones."""
    from transformers import LlamaConfig, LlamaForCausalLM

    name = "tiny" if check.is_dry else os.environ.get("GPU_CHECK_SHAPE", "8b")
    hidden, wide, layers, heads, key_heads, vocabulary = _SHAPES[name]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        max_position_embeddings=1024 if check.is_dry else 65536,
        tie_word_embeddings=False,
    )
    needed_gib = 3 * _size_gib(config)
    if shutil.disk_usage(check.work).free / GIB < needed_gib:
        raise LackError(f"less than {needed_gib:.0f} GiB of disk are free in {check.work}")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if check.has_gpu else "cpu"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(check.weights)
    tiny_tokenizer().save_pretrained(check.weights)
    return {"shape": name, "parameters": sum(each.numel() for each in model.parameters())}


def _size_gib(config: Any) -> float:
    """About how large a Llama of that configuration is in 16 bit."""
    block = 2 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    whole = config.num_hidden_layers * block + 2 * config.vocab_size * config.hidden_size
    return float(2 * whole / GIB)


def loading(check: Check) -> Found:
    """Seconds and memory of the model as a server loads it, and in 4 bits as the trainer does."""
    device = find_device()
    dtype = preferred_dtype(device)
    told: Found = {"device": device, "dtype": str(dtype)}
    check.peak_gib()
    began_s = time.perf_counter()
    model = load_base_model(check.weights, dtype=dtype, device=device)
    check.wait()
    told |= {"16_bit_s": round(time.perf_counter() - began_s, 1), "16_bit_gib": check.peak_gib()}
    del model
    gc.collect()
    torch.cuda.empty_cache()
    check.peak_gib()
    settings = parse_training_config(None, method="qlora")
    place = "cuda:0" if device == "cuda" else device
    began_s = time.perf_counter()
    load_tuning_model(check.weights, settings, device=place, longest=1024)
    check.wait()
    return told | {
        "4_bit_s": round(time.perf_counter() - began_s, 1),
        "4_bit_gib": check.peak_gib(),
    }


def short_rows(check: Check) -> Found:
    """The trainer's own choices on rows of some 90 tokens."""
    return _short(check, "short")


def on_all_gpus(check: Check) -> Found:
    """The same rows on all GPUs of the machine, a process each."""
    count = torch.cuda.device_count()
    if count < 2:
        raise LackError(f"{count} GPU(s)")
    return {"gpus": count} | _short(check, "shared", processes=count)


def _short(check: Check, name: str, *, processes: int = 1) -> Found:
    rows = rows_of(check.work / "short.jsonl", count=60 if check.is_dry else 400, letters=50)
    training = {"max_steps": 3 if check.is_dry else 16}
    config = run_config(check.work / name, weights=check.weights, rows=rows, training=training)
    return run_program(replace(config, processes=processes), limit_s=check.left_s)


def kept(check: Check) -> Found:
    """Full rows with all activations kept, beside the estimate."""
    return _long(check, "kept", recomputes=False)


def recomputed(check: Check) -> Found:
    """Full rows with activations recomputed: stopped by SIGTERM, then resumed."""
    first = _long(check, "recomputed", recomputes=True, stops=True)
    return {"stopped": first, "resumed": _long(check, "recomputed", recomputes=True)}


def _long(check: Check, name: str, *, recomputes: bool, stops: bool = False) -> Found:
    count, letters = (2, 60) if check.is_dry else (8, 1000)
    rows = rows_of(check.work / f"{name}.jsonl", count=60 if check.is_dry else 140, letters=letters)
    training = {
        "max_steps": 4 if check.is_dry else 8,
        "per_device_train_batch_size": count,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": recomputes,
    }
    asked = TuningShape(
        weight_bits=4,
        rows=count,
        row_tokens=letters + 24,
        gradient_checkpointing=recomputes,
        on_gpu=check.has_gpu,
    )
    estimated = {"estimated_gib": round(tuning_memory_gib(read_shape(check.weights), asked), 2)}
    config = run_config(check.work / name, weights=check.weights, rows=rows, training=training)
    return run_program(config, limit_s=check.left_s, stops=stops) | estimated


def base_model(check: Check) -> Found:
    """Tokens a second of the base model, by how many ask at once."""
    engine = engine_of(check.weights)
    drawn = Sampling(temperature=0.7, top_p=0.9)
    try:
        ask_at_once(engine, "base", 2, prompt=16, tokens=4, sampling=Sampling())
        told: Found = {"context_tokens": engine.context_tokens, "gib": round(check.peak_gib(), 1)}
        told["greedy"] = [_asked(check, engine, "base", clients) for clients in _clients(check)]
        told["drawn"] = [_asked(check, engine, "base", n, drawn) for n in _clients(check)[:2]]
    finally:
        engine.close()
    return told


def one_adapter(check: Check) -> Found:
    """The same of a tuned model: its adapter over the base model."""
    adapter = check.work / "short" / "results" / "adapter"
    if not adapter.is_dir():
        raise LackError("no adapter was tuned")
    engine = engine_of(check.weights, AdapterSource(name="tuned", path=adapter))
    try:
        ask_at_once(engine, "tuned", 2, prompt=16, tokens=4, sampling=Sampling())
        return {"greedy": [_asked(check, engine, "tuned", n) for n in _clients(check)[:2]]}
    finally:
        engine.close()


def _clients(check: Check) -> tuple[int, ...]:
    return (1, 4) if check.is_dry else (1, 16, 64)


def _asked(
    check: Check, engine: Any, model: str, clients: int, sampling: Sampling | None = None
) -> Found:
    tokens = 6 if check.is_dry else 64
    return ask_at_once(
        engine, model, clients, prompt=128, tokens=tokens, sampling=sampling or Sampling()
    )


def main() -> int:
    """Run every part; 1 when one of them has failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="in small, on a CPU as well")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check.json")
    parser.add_argument("--budget-s", type=float, default=450)
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as work:
        check = Check(given.dry, Path(work), given.out, given.budget_s)
        check.part("machine", machine)
        if not given.dry and not check.has_gpu:
            sys.stdout.write("no GPU is here: python -m tests.gpu.check --dry runs it in small\n")
            return 1
        check.part("compiler", compiler, least_s=30)
        check.part("random weights", random_weights)
        check.part("loading", loading, least_s=30)
        check.part("tuning, short rows", short_rows, least_s=60)
        check.part("tuning, short rows on all GPUs", on_all_gpus, least_s=60)
        check.part("tuning, activations kept", kept, least_s=60)
        check.part("tuning, activations recomputed, stopped and resumed", recomputed, least_s=90)
        check.part("serving, base model", base_model, least_s=45)
        check.part("serving, one adapter", one_adapter, least_s=30)
        check.part("architectures of the catalogue", architectures, least_s=30)
    return int(any("failed" in told for told in check.found.values()))


if __name__ == "__main__":
    sys.exit(main())
