from pathlib import Path

import torch

from serving.model.adapters import load_adapters
from serving.model.loading import load_base_model
from tasks.contract.programs.serving import AdapterSource
from tests.bench.serving.adapters import RANK, write_adapter
from tests.serving import toy


def test_the_server_takes_a_made_adapter_on_all_its_linear_layers(tmp_path: Path) -> None:
    weights = toy.make_model(tmp_path / "model")
    source = AdapterSource("made", write_adapter(tmp_path / "made", weights, seed=1))
    base = load_base_model(weights, dtype=torch.float32)
    adapted = load_adapters(base, [source], weights_dir=weights)
    ranks = [p.shape[0] for name, p in adapted.named_parameters() if "lora_A" in name]
    assert ranks == [RANK] * 7 * 2
