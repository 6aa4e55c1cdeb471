"""Adapters, configs and image layers for the tests of the image programs."""

import gzip
import io
import json
import random
import struct
import tarfile
from pathlib import Path
from typing import Any

from tasks.contract.programs.image import PullConfig, PushConfig
from tasks.image.pod.documents import describe_image
from tasks.image.pod.layer import Layer
from tasks.image.pod.layout import Layout
from tasks.remote.manifest import digest_of

PATIENCE_S = 5.0


def write_adapter(folder: Path, *, weights_bytes: int = 4096, seed: int = 0) -> Path:
    """A folder that holds what an adapter needs, with a tokenizer beside it."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "tests/llama"}')
    data = random.Random(seed).randbytes(weights_bytes)
    tensor = {"dtype": "U8", "shape": [weights_bytes], "data_offsets": [0, weights_bytes]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "lora_A": tensor}).encode()
    weights = struct.pack("<Q", len(header)) + header + data
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def push_config(adapter_dir: Path, reference: str, **fields: Any) -> PushConfig:
    """A config that pushes, and gives up soon."""
    usual: dict[str, Any] = {
        "layout_dir": adapter_dir.parent / "layout",
        "push": True,
        "patience_s": PATIENCE_S,
        "model_name": "phi-3",
    }
    return PushConfig(adapter_dir=adapter_dir, reference=reference, **usual | fields)


def pull_config(reference: str, target_dir: Path, **fields: Any) -> PullConfig:
    """A config that gives up soon."""
    usual: dict[str, Any] = {"patience_s": PATIENCE_S}
    return PullConfig(reference=reference, target_dir=target_dir, **usual | fields)


def read_blob(layout_dir: Path, digest: str) -> bytes:
    return (layout_dir / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()


def read_index(layout_dir: Path) -> dict[str, str]:
    """The layout's images: name -> digest."""
    index = json.loads((layout_dir / "index.json").read_bytes())
    key = "org.opencontainers.image.ref.name"
    return {one["annotations"][key]: one["digest"] for one in index["manifests"]}


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One entry of an archive: a file, or what `type` says."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A plain tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return gzip.compress(archive(*members))


def add_image(layout_dir: Path, reference: str, *layers: bytes, **document: Any) -> str:
    """Put an image of these layers into a layout; returns its digest. `document` goes on top."""
    blobs = [Layer(digest_of(one), digest_of(one), len(one)) for one in layers]
    manifest = json.loads(describe_image(blobs[0], {}).manifest) if blobs else {"layers": []}
    manifest["layers"] = [{"digest": one.digest, "size": one.size_bytes} for one in blobs]
    content = json.dumps(manifest | document).encode()
    layout = Layout(layout_dir)
    with layout.writing():
        for one in layers:
            layout.add_bytes(one)
        layout.tag(reference, content)
    return digest_of(content)


def tree(folder: Path) -> dict[str, str]:
    """What lies in a folder: path -> text, for links `-> target`; our own marker left out."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and name != ".kaitoflow-image":
            found[name] = path.read_text()
    return found
