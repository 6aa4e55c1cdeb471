"""The adapter's folder: which files are published, and that they are what they should be."""

import json
import logging
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.contract.errors import AdapterInvalid

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
# Pickles: loading one runs whatever code it carries.
FORBIDDEN_SUFFIXES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})

_SAFETENSORS_HEADER_MAX_BYTES = 100_000_000  # the format's own limit

logger = logging.getLogger(__name__)


def adapter_files(adapter_dir: Path) -> tuple[Path, ...]:
    """The files to publish, sorted by name: every regular file that lies directly in the folder.

    Hidden files and folders (checkpoints) are left out.
    Raises: AdapterInvalid: one of the two that make an adapter is missing or cut short, or there is
    a pickle, a link, a device.
    """
    if not adapter_dir.is_dir():
        raise AdapterInvalid(
            f"the adapter should lie in {adapter_dir}",
            "there is no such folder",
            "check that the training finished",
        )
    files = tuple(sorted(_publishable(adapter_dir), key=lambda path: path.name))
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if adapter_dir / name not in files:
            found = ", ".join(path.name for path in files) or "nothing"
            raise AdapterInvalid(
                f"an adapter needs {name}",
                f"{adapter_dir} has none (found: {found})",
                "save it with PEFT's save_pretrained",
            )
    read_adapter_config(adapter_dir)
    _check_safetensors(adapter_dir / WEIGHTS_FILE)
    return files


def read_adapter_config(adapter_dir: Path) -> dict[str, Any]:
    """What PEFT wrote about the adapter."""
    path = adapter_dir / CONFIG_FILE
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise AdapterInvalid(
            f"{path} should be JSON",
            f"it is none ({error})",
            "save it anew",
        ) from None
    if not isinstance(config, dict):
        raise AdapterInvalid(
            f"{path} should hold a JSON object",
            f"not {config!r:.40}",
            "save it anew",
        )
    return config


def _publishable(adapter_dir: Path) -> Iterator[Path]:
    for path in adapter_dir.iterdir():
        mode = path.lstat().st_mode
        if path.name.startswith(".") or stat.S_ISDIR(mode):
            logger.info("left out of the image path=%s", path)
            continue
        if not stat.S_ISREG(mode):
            raise AdapterInvalid(
                f"{path} should be a regular file",
                f"it is a {_kind(mode)}",
                "put the file there",
            )
        if path.suffix.lower() in FORBIDDEN_SUFFIXES:
            raise AdapterInvalid(
                f"{path} is a pickle",
                "it can run code when it is loaded",
                "publish safetensors only and remove this file",
            )
        yield path


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "symbolic link"
    return "device" if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else "pipe or socket"


def _check_safetensors(path: Path) -> None:
    """Compare the file's length with the one its header tells, so that no torn file is published.

    Format: u64 header length, JSON header {name: {data_offsets: [begin, end], ...}}, data.
    """
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(header_bytes, _SAFETENSORS_HEADER_MAX_BYTES)))
        tensors = [value for key, value in header.items() if key != "__metadata__"]
        data_bytes = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
    except (struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise AdapterInvalid(
            f"{path} should be in safetensors format",
            f"its header is unreadable ({error})",
            "save it anew",
        ) from error
    expected_bytes = 8 + header_bytes + data_bytes
    if path.stat().st_size != expected_bytes:
        raise AdapterInvalid(
            f"{path} should have {expected_bytes} bytes by its header",
            f"it has {path.stat().st_size}",
            "the write was cut short: save it anew",
        )
