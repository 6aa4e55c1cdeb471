"""A model that is in no catalogue gets its verdict by what the hub says of it."""

import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tasks.contract.errors import (
    DownloadFailed,
    KaitoflowError,
    ModelNotSupported,
    WeightsUnavailable,
)
from tasks.contract.shapes import ModelShape
from tasks.contract.workspace import parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings
from tasks.plan.hub import look_up
from tasks.plan.model import base_model
from tasks.platform.base import World
from tasks.presets import Preset, find_preset
from tasks.remote.file_server import open_client
from tasks.skus.prices import price_table
from tests.builders import tuning_manifest

MODEL = "someone/some-model"
CLUSTER = World(config_maps={}, has_secret=lambda _name: True, is_cluster=True, push=True)
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
MIXTURE = CONFIG | {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 1024,
    "num_hidden_layers": 2,
}


class Quiet(SimpleHTTPRequestHandler):
    """Keeps what part of each file it is asked for, and says nothing of it."""

    def __init__(self, *args: Any, ranges: list[str | None], **kwargs: Any) -> None:
        self._ranges = ranges
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        self._ranges.append(self.headers["Range"])
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


class Hub:
    """A server that has one model's files.

    ranges: the part of each file that was asked for; None = all of it.
    """

    def __init__(self, folder: Path, endpoint: str, ranges: list[str | None]) -> None:
        self.endpoint, self.ranges = endpoint, ranges
        self._files = folder / MODEL / "resolve" / "main"
        self._files.mkdir(parents=True)

    def has(self, config: Any, *, index: Any = None, header: Any = None) -> None:
        (self._files / "config.json").write_text(json.dumps(config))
        if index is not None:
            (self._files / "model.safetensors.index.json").write_text(json.dumps(index))
        if header is not None:
            text = json.dumps(header).encode()
            content = len(text).to_bytes(8, "little") + text + b"weights"
            (self._files / "model.safetensors").write_bytes(content)

    def look_up(self, model: str = MODEL) -> Preset:
        with open_client(allow_local_addresses=True) as client:
            return look_up(client, find_preset(model), endpoint=self.endpoint)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    ranges: list[str | None] = []
    handler = partial(Quiet, directory=str(tmp_path), ranges=ranges)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield Hub(tmp_path, f"http://127.0.0.1:{server.server_port}", ranges)
    server.shutdown()
    server.server_close()


def test_the_shape_of_weights_in_one_file_is_read_off_their_beginning(hub: Hub) -> None:
    tensors = {"lm_head.weight": {"shape": [10, 64]}, "__metadata__": {"format": "pt"}}
    hub.has(CONFIG, header=tensors)
    preset = hub.look_up()
    assert preset.shape == ModelShape(
        parameters=640,
        layers=32,
        hidden=4096,
        intermediate=14336,
        vocabulary=128256,
        heads=32,
        kv_hidden=1024,
    )
    assert (preset.architecture, preset.context_tokens) == ("llama", 8192)
    assert preset.kv_bytes_per_token == 2 * 32 * 1024 * 2


def test_of_weights_in_one_file_no_more_than_their_header_is_asked_for(hub: Hub) -> None:
    tensors = {"lm_head.weight": {"shape": [10, 64]}}
    hub.has(CONFIG, header=tensors)
    hub.look_up()
    header = len(json.dumps(tensors))
    assert hub.ranges == [None, None, "bytes=0-7", f"bytes=0-{8 + header - 1}"]


def test_weights_in_several_files_are_counted_by_their_index(hub: Hub) -> None:
    index = {"metadata": {"total_size": 16_000_000_000}, "weight_map": {"a": "1.safetensors"}}
    hub.has(CONFIG, index=index)
    preset = hub.look_up()
    assert preset.parameters == 8_000_000_000
    assert preset.size_gib == pytest.approx(14.9, abs=0.01)
    hub.has(CONFIG | {"torch_dtype": "float32"}, index=index)
    assert hub.look_up().parameters == 4_000_000_000


def test_a_mixtures_experts_are_counted_apart(hub: Hub) -> None:
    weight_map = {"model.layers.0.mlp.experts.0.up_proj.weight": "1.safetensors"}
    hub.has(MIXTURE, index={"metadata": {"total_size": 10**9}, "weight_map": weight_map})
    shape = hub.look_up().shape
    assert shape
    assert shape.expert_parameters == 8 * 3 * 4096 * 1024 * 2
    assert (shape.parameters, shape.intermediate) == (5 * 10**8, 2 * 1024)


def test_weights_that_are_stored_quantised_are_refused_before_a_node_is_asked_for(
    hub: Hub,
) -> None:
    hub.has(CONFIG | {"quantization_config": {"quant_method": "awq"}})
    asked = parse_workspace(tuning_manifest(preset={"name": MODEL}), source="test")
    preset = hub.look_up()
    assert preset.quantized == "awq"
    with pytest.raises(ModelNotSupported, match="published quantised"):
        base_model(asked, CLUSTER, preset)


def test_a_plan_goes_by_what_the_hub_says(hub: Hub) -> None:
    index = {"metadata": {"total_size": 16_000_000_000}, "weight_map": {"a": "1.safetensors"}}
    hub.has(CONFIG, index=index)
    manifest = tuning_manifest(preset={"name": MODEL}, method="lora")
    manifest["resource"]["instanceType"] = "Standard_NC4as_T4_v3"
    asked = parse_workspace(manifest, source="test")
    seen = Findings(provisioner="aks", prices=price_table(None), base_model=hub.look_up())
    checks = {check.name: check for check in make_plan(asked, CLUSTER, seen).checks}
    assert "8,000M parameters" in checks["base model"].detail
    assert checks["GPU fit"].reason == "ModelDoesNotFit"


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (["no", "object"], DownloadFailed),
        ({"model_type": "bert"}, DownloadFailed),
        (CONFIG, WeightsUnavailable),
    ],
    ids=["no configuration", "of no language model", "no weights"],
)
def test_what_is_not_understood_is_told_and_stops_nothing(
    hub: Hub, config: Any, error: type[KaitoflowError]
) -> None:
    hub.has(config, header={} if error is DownloadFailed else None)
    with pytest.raises(error, match=f"{MODEL} was looked up on the hub") as raised:
        hub.look_up()
    asked = parse_workspace(tuning_manifest(preset={"name": MODEL}), source="test")
    check = base_model(asked, CLUSTER, raised.value)
    assert not isinstance(check, str)
    assert (check.result, check.detail.startswith(f"{MODEL}@main; ")) == ("warn", True)


def test_a_model_that_is_not_there_is_told(hub: Hub) -> None:
    with pytest.raises(WeightsUnavailable, match="the server answered 404"):
        hub.look_up("someone/another")
