"""What the adapter answers is left beside it, and a server finds that it answers the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from serving.metrics import Metrics
from serving.transformers_engine.engine import load_engine
from tasks.contract.as_trained import FILE, read_as_trained
from tasks.contract.programs.serving import AdapterSource, ServerConfig
from tasks.tuning.pod import comparing
from tasks.tuning.pod.train import main
from tests.tuning.runs import Runs

SPLIT = {"train_test_split": 0.75}


@pytest.mark.parametrize("split", [0.75, 1.0])
@pytest.mark.parametrize(
    ("method", "model"),
    [("lora", {"torch_dtype": "float32"}), ("qlora", {"torch_dtype": "auto"})],
)
def test_the_server_answers_as_the_trainers_model_did(
    runs: Runs, method: str, model: dict[str, Any], split: float
) -> None:
    config = runs.config(
        method=method,
        ModelConfig=model,
        DatasetConfig={"train_test_split": split},
        training={"num_train_epochs": 4},
    )
    adapter = Path(main(config)["adapter"])
    trained = read_as_trained(adapter)
    assert trained
    assert (trained.base_model, trained.base_revision) == ("tests/tiny", "abc123")
    served = ServerConfig(
        weights_dir=runs.weights_dir,
        served_model_name="tiny",
        adapters=(AdapterSource("tuned", adapter),),
    )
    dtype = getattr(torch, trained.dtype)
    load_engine(served, metrics=Metrics(), dtype=dtype).close()


def test_a_fault_of_it_costs_no_adapter(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("nothing was seen")

    monkeypatch.setattr(comparing, "keep_as_trained", fail)
    result = main(runs.config(DatasetConfig=SPLIT, training={"max_steps": 1}))
    assert result["held_out"]
    assert not (Path(result["adapter"]) / FILE).exists()
