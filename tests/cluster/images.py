"""Container images for the tests' nodes, built here: no registry but the tests' own is asked.

They lie in build/images, a registry's own folder, so that each is built once.
"""

import hashlib
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.cluster import debian
from tests.cluster.build import locked, tool
from tests.cluster.oci import Images
from tests.cluster.registry import running_registry

FOLDER = Path(__file__).parents[2] / "build" / "images"
_BASE_PACKAGES = "python3,python3-pip,python3-venv"


def pause() -> str:
    """The name of the image that holds each pod's namespaces."""
    return f"pause:{_digest(tool('pause').read_bytes())}"


def base() -> str:
    """The name of a Debian with Python and pip, which the product's images begin with."""
    return f"base:{_digest(_BASE_PACKAGES.encode())}"


def build() -> None:
    """Build what is not there yet; a minute or two the first time."""
    with (
        locked(FOLDER),
        running_registry(FOLDER) as registry,
        Images(registry.host) as images,
        tempfile.TemporaryDirectory(dir=FOLDER) as aside,
    ):
        debian.install_missing()
        builders: dict[str, Callable[[Images, str, Path], None]] = {
            pause(): _push_pause,
            base(): _push_base,
        }
        for name, push in builders.items():
            if name not in images:
                push(images, name, Path(aside))


def _push_pause(images: Images, name: str, aside: Path) -> None:
    layer = aside / "pause.tar"
    with tarfile.open(layer, "w") as files:
        files.add(tool("pause"), "pause")
    images.push(name, [layer], settings={"Entrypoint": ["/pause"], "User": "65535:65535"})


def _push_base(images: Images, name: str, aside: Path) -> None:
    root, layer = aside / "root", aside / "base.tar"
    debian.make_root(root, packages=_BASE_PACKAGES)
    with tarfile.open(layer, "w") as files:
        files.add(root, ".", filter=_no_devices)
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    images.push(name, [layer], settings={"Env": [path], "Cmd": ["python3"]})


def _no_devices(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """A container gets its own."""
    return None if entry.isdev() else entry


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
