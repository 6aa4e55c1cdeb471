"""An adapter's files, from below the folder that adapters may lie in, or out of an image."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import ApiError, shown
from tasks.contract.image_reference import parse_reference
from tasks.contract.programs.image import PullConfig
from tasks.contract.programs.serving import ServerConfig

_MOST_CHARACTERS = 2**24  # tokenizers' configurations have up to a few million


@contextmanager
def adapter_folder(config: ServerConfig, asked: str) -> Iterator[Path]:
    """The folder that a `lora_path` means; an image's is there until the block ends.

    With a registry's host in front (a dot, a colon or `localhost` before the first slash) it is an
    image, else a folder below `config.adapters_dir`.
    Raises: ApiError; what `pull_image` raises.
    """
    if _is_image(asked):
        with tempfile.TemporaryDirectory(prefix="adapter-") as folder:
            yield _pulled(config, asked, Path(folder) / "adapter")
    else:
        yield _below_root(config, asked)


def read_short(file: Path) -> str:
    """The text of one of an adapter's small files.

    Raises: OSError; ValueError: it is no text, or longer than any such file is.
    """
    with file.open(encoding="utf-8") as opened:
        text = opened.read(_MOST_CHARACTERS + 1)
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"{file.name} has over {_MOST_CHARACTERS:,} characters")
    return text


def _is_image(asked: str) -> bool:
    host, slash, _ = asked.partition("/")
    named = host not in {".", ".."} and ("." in host or ":" in host or host == "localhost")
    return bool(slash) and named


def _pulled(config: ServerConfig, reference: str, folder: Path) -> Path:
    from tasks.image.pod.pull import pull_image

    parse_reference(reference)
    pull_image(
        PullConfig(
            reference=reference,
            target_dir=folder,
            layout_dir=config.images_dir,
            docker_configs=config.docker_configs,
            insecure=config.insecure_registries,
            storage_hosts=config.storage_hosts,
            patience_s=config.pull_patience_s,
        )
    )
    return folder


def _below_root(config: ServerConfig, asked: str) -> Path:
    if config.adapters_dir is None:
        raise ApiError(
            400,
            f"the folder {shown(asked)} was asked for, this server has none for adapters; name an"
            " image, or set KAITOFLOW_SERVER_ADAPTERS_DIR",
            param="lora_path",
        )
    root = config.adapters_dir.resolve()
    folder = (root / asked).resolve()
    if folder == root or not all(
        path.resolve().is_relative_to(root) for path in [folder, *folder.glob("*")]
    ):
        raise ApiError(
            400,
            f"the folder {shown(asked)} was asked for, adapters are loaded from below {root}"
            " alone; put it there, or name an image with its registry",
            param="lora_path",
        )
    if not folder.is_dir():
        raise ApiError(
            404,
            f"the folder {shown(asked)} was asked for, {root} has none of that name; put the"
            " adapter there",
            param="lora_path",
            code="adapter_not_found",
        )
    return folder
