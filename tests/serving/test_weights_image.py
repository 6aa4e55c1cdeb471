"""Base models as images: pushed a file a layer, fetched the same, refused when they are others."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.weights.fetch import ensure_weights
from serving.weights.marker import read_marker
from serving.weights.push import main as push
from tasks.contract.errors import ImageUnreadable, RegistryDenied, WeightsUnavailable
from tasks.contract.programs.serving import WeightsConfig, WeightsPushConfig
from tasks.remote.manifest import TITLE, encode
from tasks.remote.registry import Repository
from tests.cluster.registry import RunningRegistry, docker_config, running_registry
from tests.serving.hub_server import Hub, running_hub

pytestmark = pytest.mark.registry

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000, "tokenizer.json": b"[]"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def locked_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("locked"), auth=True) as running:
        yield running


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of a hub's, on disk; from then on there is no hub."""
    with running_hub(Hub(files=dict(FILES))) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        ensure_weights(wanted(tmp_path / "here", ""))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "here"


def wanted(folder: Path, image: str, **changes: Any) -> WeightsConfig:
    plain = WeightsConfig(
        model_id="owner/model", revision="main", weights_dir=folder, image=image, patience_s=5
    )
    return replace(plain, **changes)


def pushed(registry: RunningRegistry, weights: Path, name: str, **changes: Any) -> str:
    image = f"{registry.host}/{name}:main"
    push(replace(WeightsPushConfig(weights_dir=weights, image=image, patience_s=5), **changes))
    return image


def held(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_a_model_comes_from_its_image_as_it_was_pushed(
    registry: RunningRegistry, weights: Path, tmp_path: Path
) -> None:
    image = pushed(registry, weights, "whole")
    told = ensure_weights(wanted(tmp_path / "there", image))
    assert (told.source, told.bytes) == ("image", sum(map(len, FILES.values())))
    assert held(tmp_path / "there") == FILES
    here, there = read_marker(weights), read_marker(tmp_path / "there")
    assert here
    assert there
    assert (there.digests, there.commit) == (here.digests, here.commit)


def test_a_second_start_asks_nobody(
    registry: RunningRegistry, weights: Path, tmp_path: Path
) -> None:
    image = pushed(registry, weights, "asked-once")
    ensure_weights(wanted(tmp_path / "there", image))
    elsewhere = wanted(tmp_path / "there", "127.0.0.1:9/nobody:main", patience_s=0)
    assert ensure_weights(elsewhere).source == "cache"


def test_a_second_push_sends_nothing_and_has_the_same_digest(
    registry: RunningRegistry, weights: Path
) -> None:
    config = WeightsPushConfig(weights_dir=weights, image=f"{registry.host}/twice:main")
    first, second = push(config), push(config)
    assert first.uploaded_bytes == first.bytes == sum(map(len, FILES.values()))
    assert second == replace(first, uploaded_bytes=0)


def test_who_was_interrupted_goes_on_with_the_next_file(
    registry: RunningRegistry, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pushed(registry, weights, "interrupted")
    download, asked = Repository.have_blob, []

    def one_and_no_more(self: Repository, digest: str, size_bytes: int, aside: Path) -> Path:
        asked.append(digest)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return download(self, digest, size_bytes, aside)

    monkeypatch.setattr(Repository, "have_blob", one_and_no_more)
    config = wanted(tmp_path / "there", image)
    with pytest.raises(KeyboardInterrupt):
        ensure_weights(config)
    assert read_marker(tmp_path / "there") is None
    assert ensure_weights(config).source == "image"
    assert len(asked) == len(FILES) + 1
    assert held(tmp_path / "there") == FILES


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model_id": "owner/other"}, "it holds owner/model at main"),
        ({"revision": "d" * 40}, "it holds owner/model at main"),
    ],
)
def test_another_model_in_its_place_is_refused(
    registry: RunningRegistry, weights: Path, tmp_path: Path, changes: dict[str, str], found: str
) -> None:
    image = pushed(registry, weights, "taken")
    with pytest.raises(WeightsUnavailable, match=found):
        ensure_weights(wanted(tmp_path / "there", image, **changes))
    assert not (tmp_path / "there/model.safetensors").exists()


def test_a_model_that_nobody_has_pushed_is_told_with_how_to_push_it(
    registry: RunningRegistry, tmp_path: Path
) -> None:
    with pytest.raises(WeightsUnavailable) as refused:
        ensure_weights(wanted(tmp_path / "there", f"{registry.host}/nobody:main"))
    assert "kaitoflow models push owner/model REGISTRY" in refused.value.fix


def test_a_registry_that_asks_for_a_login_gets_the_one_that_is_set(
    locked_registry: RunningRegistry, weights: Path, tmp_path: Path
) -> None:
    login = tmp_path / "login.json"
    login.write_text(docker_config(locked_registry.host))
    image = pushed(locked_registry, weights, "locked", docker_config=login)
    with pytest.raises(RegistryDenied):
        ensure_weights(wanted(tmp_path / "without", image))
    assert ensure_weights(wanted(tmp_path / "with", image, docker_config=login)).source == "image"


@pytest.mark.parametrize("name", ["../evil", ".hidden", "a/b"])
def test_a_layer_that_is_no_plain_file_is_refused(
    registry: RunningRegistry, weights: Path, tmp_path: Path, name: str
) -> None:
    image = pushed(registry, weights, "crooked")
    put_renamed(registry, image, name)
    with pytest.raises(ImageUnreadable, match="no file's name"):
        ensure_weights(wanted(tmp_path / "there", image))
    assert not (tmp_path / "evil").exists()


def put_renamed(registry: RunningRegistry, image: str, name: str) -> None:
    """Have the image's last layer called otherwise."""
    import httpx2

    repository, _, tag = image.removeprefix(f"{registry.host}/").partition(":")
    url = f"http://{registry.host}/v2/{repository}/manifests/{tag}"
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = json.loads(httpx2.get(url, headers={"Accept": kind}, trust_env=False).text)
    manifest["layers"][-1]["annotations"][TITLE] = name
    put = httpx2.put(url, content=encode(manifest), headers={"Content-Type": kind}, trust_env=False)
    put.raise_for_status()


def test_a_folder_that_is_not_whole_is_not_pushed(
    registry: RunningRegistry, tmp_path: Path
) -> None:
    (tmp_path / "half").mkdir()
    with pytest.raises(WeightsUnavailable, match="not fetched to the end"):
        pushed(registry, tmp_path / "half", "half")
