import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.contract.errors import ImageUnreadable
from tasks.contract.programs.image import PushConfig
from tasks.image.pod.layout import Layout
from tasks.image.pod.push import push_image
from tests.image.builders import push_config, read_blob, read_index, write_adapter

REFERENCE = "me.azurecr.io/team/phi:v1"


def keep(adapter: Path, reference: str = REFERENCE, **fields: object) -> PushConfig:
    config = push_config(adapter, reference, push=False, **fields)
    push_image(config)
    return config


def test_a_kept_image_is_a_valid_layout(adapter: Path) -> None:
    layout_dir = keep(adapter).layout_dir
    digest = read_index(layout_dir)[REFERENCE]
    manifest = json.loads(read_blob(layout_dir, digest))
    config = json.loads(read_blob(layout_dir, manifest["config"]["digest"]))
    assert json.loads((layout_dir / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    assert manifest["layers"][0]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert (
        len(read_blob(layout_dir, manifest["layers"][0]["digest"]))
        == (manifest["layers"][0]["size"])
    )


def test_skopeo_reads_the_layout(adapter: Path) -> None:
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        return  # crane decides, in test_push; this is a second opinion
    layout_dir = keep(adapter).layout_dir
    name = f"oci:{layout_dir}:{REFERENCE}"
    answer = subprocess.run([skopeo, "inspect", name], check=True, capture_output=True)
    assert json.loads(answer.stdout)["Digest"] == read_index(layout_dir)[REFERENCE]


def test_same_weights_give_the_same_digest_whenever_and_by_whomever(tmp_path: Path) -> None:
    """Another time, another order of making, another process, another umask."""
    first = write_adapter(tmp_path / "first" / "adapter")
    second = tmp_path / "second" / "adapter"
    second.mkdir(parents=True)
    for path in sorted(first.iterdir(), reverse=True):
        shutil.copyfile(path, second / path.name)
        os.utime(second / path.name, (1, 1))
        (second / path.name).chmod(0o600)
    layout_dir = keep(first).layout_dir
    config = {"adapter_dir": str(second), "reference": REFERENCE, "model_name": "phi-3"}
    arguments = tmp_path / "config.json"
    arguments.write_text(json.dumps(config | {"layout_dir": str(tmp_path / "layout")}))
    program = [sys.executable, "-m", "tasks.image.pod", str(arguments)]
    subprocess.run(program, check=True, umask=0o077, capture_output=True)
    assert read_index(tmp_path / "layout") == read_index(layout_dir)


def test_other_annotations_change_the_image_but_not_its_layer(adapter: Path) -> None:
    one = push_image(push_config(adapter, REFERENCE, push=False))
    two = push_image(push_config(adapter, REFERENCE, push=False, annotations={"run": "2"}))
    assert one.layer_digest == two.layer_digest
    assert one.digest != two.digest


def test_an_image_says_what_it_is_and_the_caller_has_the_last_word(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    wanted = {"org.opencontainers.image.source": "https://git", "sh.kaito.model.name": "phi-4"}
    result = push_image(push_config(adapter, REFERENCE, push=False, annotations=wanted))
    assert result.annotations == wanted | {
        "org.opencontainers.image.title": "LoRA adapter for phi-3",
        "org.opencontainers.image.base.name": "tests/llama",
        "org.opencontainers.image.created": "1970-01-01T00:00:00Z",
    }


def test_an_image_says_what_its_adapter_was_made_from_and_what_it_came_to(adapter: Path) -> None:
    held_out = {"rows": 12, "loss_before": 2.0, "loss_after": 1.5}
    metrics = {
        "dataset_digest": "d",
        "base_commit": "c0ffee",
        "base_files": "",
        "versions": {"kaitoflow": "0.1.0", "torch": "2"},
        "held_out": held_out | {"sample": None},
    }
    (adapter / "metrics.json").write_text(json.dumps(metrics))
    told = push_image(push_config(adapter, REFERENCE, push=False)).annotations
    assert json.loads(told["io.kaitoflow.held-out"]) == held_out
    assert (told["io.kaitoflow.base.commit"], told["io.kaitoflow.version"]) == ("c0ffee", "0.1.0")
    assert "io.kaitoflow.base.files" not in told


def test_a_local_path_of_the_base_model_is_not_published(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/home/bob/phi"}')
    result = push_image(push_config(adapter, REFERENCE, push=False))
    assert "org.opencontainers.image.base.name" not in result.annotations


def test_images_share_a_layout_and_the_same_name_is_replaced(tmp_path: Path) -> None:
    old = write_adapter(tmp_path / "old", seed=1)
    new = write_adapter(tmp_path / "new", seed=2)
    layout_dir = keep(old).layout_dir
    before = read_index(layout_dir)
    keep(old, "me.azurecr.io/team/phi:v2")
    keep(new)
    after = read_index(layout_dir)
    assert list(after) == [REFERENCE, "me.azurecr.io/team/phi:v2"]
    assert after[REFERENCE] != before[REFERENCE]


def test_keeping_an_image_twice_changes_nothing(adapter: Path) -> None:
    layout_dir = keep(adapter).layout_dir
    before = {path: path.read_bytes() for path in layout_dir.rglob("*") if path.is_file()}
    keep(adapter)
    assert before == {p: p.read_bytes() for p in layout_dir.rglob("*") if p.is_file()}


def test_writers_at_the_same_time_all_keep_their_images(adapter: Path) -> None:
    names = [f"me.azurecr.io/team/phi:v{number}" for number in range(6)]
    with ThreadPoolExecutor(len(names)) as writers:
        list(writers.map(lambda name: keep(adapter, name), names))
    assert list(read_index(adapter.parent / "layout")) == names


def test_what_a_crashed_writer_left_is_removed(adapter: Path) -> None:
    layout_dir = keep(adapter).layout_dir
    (layout_dir / ".incoming").mkdir()
    (layout_dir / ".incoming" / "layer").write_bytes(b"half a layer")
    keep(adapter)
    assert sorted(path.name for path in layout_dir.iterdir()) == [
        "blobs",
        "index.json",
        "oci-layout",
    ]


def test_a_damaged_blob_is_told(adapter: Path, tmp_path: Path) -> None:
    layout_dir = keep(adapter).layout_dir
    digest = read_index(layout_dir)[REFERENCE]
    Layout(layout_dir).blob_path(digest).write_text("{}")
    with pytest.raises(ImageUnreadable, match=f"{digest}; it is missing or damaged; push"):
        Layout(layout_dir).read_manifest(digest)
    with pytest.raises(ImageUnreadable, match="missing or damaged"):
        Layout(layout_dir).have_blob(digest, 2, tmp_path / "aside")


def test_the_program_tells_how_far_it_is(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(adapter)
    total = sum(path.stat().st_size for path in adapter.iterdir())
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events == [{"event": "progress", "phase": "pack", "bytes": total, "total": total}]
