"""What the catalogue says of a model's architecture is what happens to a tiny one of it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from serving.engine import Generation, Sampling
from serving.metrics import Metrics
from serving.transformers_engine.engine import load_engine
from tasks.contract.errors import ModelNotSupported, WeightsUnavailable
from tasks.contract.programs.serving import ServerConfig
from tasks.contract.training_config import Method
from tasks.presets import Preset, catalogue, find_preset
from tasks.tuning.pod.memory import read_shape
from tasks.tuning.pod.train import main
from tests.gpu.architectures import BUILT, SLIDING, write_tiny
from tests.tuning.runs import Runs
from tests.tuning.tiny import chats, write_rows

WORKS, METHODS = "works", get_args(Method)
PLAIN = [each for each in catalogue().values() if not each.quantized]
# One of each architecture stands for all of it: `test_one_stands_for_all` holds them to that.
OF_EACH = {
    each.architecture: each for each in PLAIN if each.serves.get("transformers") != "shared-keys"
}
# So are all of the catalogue's of that architecture.
MOSTLY_EXPERTS = "qwen3_5_moe"
BUILDABLE = sorted(OF_EACH.keys() & BUILT)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {each: write_tiny(each, tmp_path_factory.mktemp(each)) for each in BUILDABLE}


async def answer(folder: Path) -> int:
    """The tokens of two answers at once, to prompts of different lengths."""
    config = ServerConfig(weights_dir=folder, served_model_name="m")
    engine = load_engine(config, metrics=Metrics())

    async def tokens(length: int) -> int:
        asked = Generation(
            model="m", prompt_ids=[10] * length, max_tokens=2, min_tokens=2, sampling=Sampling()
        )
        return sum([piece.tokens async for piece in engine.submit(asked)])

    try:
        return sum(await asyncio.gather(tokens(5), tokens(9)))
    finally:
        engine.close()


def tuned(folder: Path, work: Path, method: str) -> Any:
    rows = write_rows(work / "rows.jsonl", chats(6))
    runs = Runs(work, weights_dir=folder, train_file=rows)
    training = {"max_steps": 1, "per_device_train_batch_size": 2}
    return main(runs.config(method=method, training=training))


@pytest.mark.parametrize("architecture", BUILDABLE)
def test_what_is_said_to_be_served_answers_and_what_is_not_does_not(
    architecture: str, folders: dict[str, Path]
) -> None:
    says = OF_EACH[architecture].serves["transformers"]
    if says == WORKS:
        assert asyncio.run(answer(folders[architecture])) == 4
    else:
        with pytest.raises(WeightsUnavailable, match="keeps more than keys and values"):
            asyncio.run(answer(folders[architecture]))


def test_layers_that_read_the_keys_of_others_are_refused_at_the_load(
    tmp_path: Path,
) -> None:
    shares = {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": [*SLIDING, *SLIDING],
    }
    folder = write_tiny("gemma4", tmp_path, **shares)
    with pytest.raises(WeightsUnavailable, match=r"keeps more .*DummyLayer"):
        asyncio.run(answer(folder))
    for name in ("gemma-4-e2b-it", "gemma-4-e4b-it"):
        assert "other layers' keys and values" in find_preset(name).why_not_served("transformers")


@pytest.mark.filterwarnings("ignore:.*removed in v6:FutureWarning")
@pytest.mark.parametrize("method", ["qlora", pytest.param("lora", marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", BUILDABLE)
def test_what_is_said_to_be_tuned_learns(
    architecture: str, method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    assert OF_EACH[architecture].tunes[method] == WORKS
    folder = folders[architecture]
    if (method, architecture) == ("qlora", MOSTLY_EXPERTS):
        with pytest.raises(ModelNotSupported, match="of its weights could be quantised"):
            tuned(folder, tmp_path, method)
    else:
        assert tuned(folder, tmp_path, method)["steps"] == 1


@pytest.mark.parametrize("kind", ["fp8", "mxfp4", "awq", "gptq", "compressed-tensors", "modelopt"])
@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_published_quantised_are_refused_before_they_are_loaded(
    kind: str, method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in folders["llama"].iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    stored = config | {"quantization_config": {"quant_method": kind}}
    (folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ModelNotSupported, match=f"stored as {kind}"):
        tuned(folder, tmp_path, method)


@pytest.mark.parametrize("architecture", BUILDABLE)
def test_a_shape_counts_the_experts_that_stay_as_they_are(
    architecture: str, folders: dict[str, Path]
) -> None:
    has_experts = architecture in {"gemma4", "qwen3_5_moe", "nemotron_h"}
    assert (read_shape(folders[architecture]).expert_parameters > 0) is has_experts


@pytest.mark.parametrize("preset", ["gemma-4-e2b-it", "qwen3.6-35b-a3b"])
def test_a_model_of_which_little_would_be_quantised_is_tuned_by_lora_alone(preset: str) -> None:
    assert "of its weights are linear layers" in find_preset(preset).why_not_tuned("qlora")
    assert not find_preset(preset).why_not_tuned("lora")


def test_every_architecture_of_the_catalogue_is_proved_or_refused() -> None:
    unproved = {each.architecture for each in PLAIN} - BUILT
    for preset in PLAIN:
        if preset.architecture in unproved:
            assert preset.why_not_served("transformers")
            assert all(preset.why_not_tuned(method) for method in METHODS)


@pytest.mark.parametrize("preset", PLAIN, ids=lambda preset: preset.name)
def test_one_stands_for_all_of_its_architecture(preset: Preset) -> None:
    one = OF_EACH[preset.architecture]
    assert preset.tunes == one.tunes
    ours = preset.serves["transformers"]
    assert ours in (one.serves["transformers"], "shared-keys")


@pytest.mark.parametrize(
    "preset", [each for each in catalogue().values() if each.quantized], ids=lambda each: each.name
)
def test_what_is_published_quantised_is_said_to_be_of_no_use(preset: Preset) -> None:
    assert preset.why_not_served("transformers")
    assert all(preset.why_not_tuned(method) for method in METHODS)
