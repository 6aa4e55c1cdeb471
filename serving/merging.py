"""The merging program: `python -m serving.merging CONFIG.json` (a `MergeConfig`).

What it leaves is a model like any other, for programs that know no adapters: it is written beside
its place and moved there when it is whole.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from serving.weights.marker import MARKER, read_marker
from tasks.contract.errors import FolderTaken
from tasks.contract.podlog import emit, run_program
from tasks.contract.programs.serving import MergeConfig, MergeResult

_NOT_THE_BASES = (".safetensors", ".gguf", ".bin")


def main(config: MergeConfig) -> MergeResult:
    """The folder, once it is whole.

    Raises: AdapterMismatch, ModelNotSupported, WeightsUnavailable, FolderTaken.
    """
    target = config.target_dir
    if target.exists():
        raise FolderTaken(
            f"a merged model was to be written to {target}",
            "there is something already",
            "name a folder that is not there yet, or remove it",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as work:
        folder = Path(work) / "model"
        _write(config, folder)
        folder.rename(target)
    size = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    return MergeResult(target_dir=target, bytes=size)


def _write(config: MergeConfig, folder: Path) -> None:
    from serving.model.adapter_names import adapter_key
    from serving.model.adapters import add_adapter, check_adapter
    from serving.model.layers import layers_of
    from serving.model.loading import load_base_model, quiet_libraries, stored_dtype

    quiet_libraries()
    emit("progress", {"phase": "load"})
    model = load_base_model(
        config.weights_dir, dtype=stored_dtype(config.weights_dir), device="cpu"
    )
    check_adapter(config.adapter, layers_of(model), marker=read_marker(config.weights_dir))
    emit("progress", {"phase": "merge"})
    adapted = add_adapter(model, config.adapter)
    # PEFT itself sums in float32 and rounds once; it refuses sums that are no numbers.
    merged = adapted.merge_and_unload(
        safe_merge=True, adapter_names=[adapter_key(config.adapter.name)]
    )
    emit("progress", {"phase": "save"})
    merged.save_pretrained(folder)
    for file in config.weights_dir.iterdir():
        is_needed = file.is_file() and file.name != MARKER and file.suffix not in _NOT_THE_BASES
        if (
            is_needed
            and not file.name.endswith(".index.json")
            and not (folder / file.name).exists()
        ):
            shutil.copy2(file, folder)
    (folder / "README.md").write_text(_card(config), encoding="utf-8")


def _card(config: MergeConfig) -> str:
    came = f"the adapter of `{config.image}`" if config.image else "an adapter"
    strength = config.adapter.strength
    share = "" if strength == 1 else f", at {strength:g} of its strength"
    return (
        f"---\nbase_model: {config.base_model}\nbase_model_relation: finetune\n---\n\n"
        f"`{config.base_model}` with {came} in its weights{share}.\n"
    )


if __name__ == "__main__":
    sys.exit(run_program(MergeConfig, main, sys.argv))
