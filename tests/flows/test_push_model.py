"""`kaitoflow models push`, and a machine without a way to the hub that serves what was pushed."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.cluster.registry import RunningRegistry, running_registry
from tests.flows.conftest import Installation

pytestmark = [pytest.mark.slow, pytest.mark.registry]

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def offline(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A second machine, with nothing on it and no way to the hub or a package index."""
    nowhere = {"HF_HUB_OFFLINE": "1", "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_NO_INDEX": "1"}
    home = tmp_path_factory.mktemp("offline")
    other = Installation(home, installation.environment | nowhere)
    yield other
    other.kaitoflow("stop", "served")


def serving(folder: Path) -> Path:
    manifest = {
        "kind": "Workspace",
        "metadata": {"name": "served"},
        "inference": {"preset": {"name": MODEL}},
    }
    file = folder / "served.yaml"
    file.write_text(yaml.safe_dump(manifest))
    return file


def test_a_model_that_was_pushed_is_served_where_there_is_no_way_to_the_hub(
    installation: Installation, offline: Installation, registry: RunningRegistry
) -> None:
    place = f"{registry.host}/models"
    pushed = installation.kaitoflow("models", "push", MODEL, place)
    assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    assert f"pods.modelsRegistry={place}" in pushed.stdout
    again = installation.kaitoflow("models", "push", MODEL, place)
    assert "MB, 0 of them sent now" in again.stdout

    offline.environment["KAITOFLOW_MODELS_REGISTRY"] = place
    planned = offline.kaitoflow("plan", str(serving(offline.home)))
    assert f"{place}/huggingfacetb/{MODEL}:" in planned.stdout, planned.stdout + planned.stderr
    ran = offline.kaitoflow("run", str(offline.home / "served.yaml"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    url = offline.object("served")["status"]["endpoint"]["url"]
    body = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 4}
    told = httpx2.post(f"{url}/v1/completions", json=body, timeout=120, trust_env=False)
    assert told.status_code == 200, told.text


def test_a_registry_without_the_model_is_refused_by_the_plan(
    offline: Installation, registry: RunningRegistry
) -> None:
    offline.environment["KAITOFLOW_MODELS_REGISTRY"] = f"{registry.host}/empty"
    planned = offline.kaitoflow("plan", str(serving(offline.home)))
    assert planned.returncode == 3
    assert "kaitoflow models push" in planned.stdout
