"""An inference Workspace serves a preset with adapters pulled from images."""

import httpx2
import pytest
import yaml

from tests.flows.conftest import FinishedRun

pytestmark = pytest.mark.timeout(600)


def test_an_adapter_image_is_pulled_and_served_beside_its_base(finished: FinishedRun) -> None:
    image = finished.object["status"]["image"]["reference"]
    inference = {
        "preset": {"name": "smollm2-135m-instruct"},
        "adapters": [{"source": {"name": "docs", "image": image}, "strength": "0.5"}],
    }
    manifest = {"kind": "Workspace", "metadata": {"name": "served"}, "inference": inference}
    path = finished.installation.home / "served.yaml"
    path.write_text(yaml.safe_dump(manifest))
    ended = finished.installation.kaitoflow("run", str(path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    url = finished.installation.object("served")["status"]["endpoint"]["url"]
    models = httpx2.get(f"{url}/v1/models").json()["data"]
    assert {model["id"] for model in models} == {"smollm2-135m-instruct", "docs"}
    assert url != finished.object["status"]["endpoint"]["url"]
