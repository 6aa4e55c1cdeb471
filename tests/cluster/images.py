"""Container images for the tests' nodes, built here: no registry but the tests' own is asked.

They lie in build/images, a registry's own folder, under names that have the digest of what they
are made of: each is built once. Layers lie there alone: those that buildah worked on are removed.
Run as `python -m tests.cluster.images` to build them all.
"""

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import debian
from tests.cluster.build import locked, tool
from tests.cluster.containerfile import Builder, running_builder
from tests.cluster.oci import Images
from tests.cluster.registry import running_registry

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "images"
_POSTGRESQL = Path(__file__).with_name("postgresql")
_BASE_PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
_TRUSTED = "etc/ssl/certs/ca-certificates.crt"
_SOURCES = ("flows", "tasks", "serving", "pyproject.toml", "README.md", "LICENSE", "requirements")
# What the pod image has of others, put below it: the product's own layers stay small. In a folder
# of that name, or dill takes libraries for a person's own code and fails to pickle them.
_POD_PACKAGES = """
ARG BASE
FROM ${BASE}
COPY requirements/pods.txt /tmp/pods.txt
RUN /tools/uv pip install --python python3 --target /opt/site-packages --require-hashes \\
    --no-build --compile-bytecode --link-mode copy --cache-dir /cache --requirement /tmp/pods.txt
ENV PYTHONPATH=/opt/site-packages
"""


@dataclass(frozen=True)
class Workshop:
    """Where an image is being built: the registry it goes to, and a folder to work in."""

    host: str
    images: Images
    builder: Builder
    aside: Path


def pause() -> str:
    """The name of the image that holds each pod's namespaces."""
    return f"pause:{_digest(tool('pause'))}"


def base() -> str:
    """The name of a Debian with Python and pip, which the product's images begin with."""
    return f"base:{_digest(_BASE_PACKAGES)}"


def control() -> str:
    """The name of the product's control image."""
    return f"control:{_digest(base(), _containerfile('control'), *_sources())}"


def pod() -> str:
    """The name of the product's pod image."""
    return f"pod:{_digest(_pod_packages(), _containerfile('pod'), *_sources())}"


def postgresql() -> str:
    """The name of the database's image, which the chart starts as it starts the official one."""
    return f"postgresql:{_digest(base(), *sorted(_POSTGRESQL.iterdir()))}"


def build(*, product: bool = False) -> None:
    """Build what is not there yet; a minute or two the first time, with the product's ten."""
    builders: dict[str, Callable[[Workshop, str], None]] = {
        pause(): _push_pause,
        base(): _push_base,
    }
    if product:
        builders |= {
            control(): _push_control,
            postgresql(): _push_postgresql,
            _pod_packages(): _push_pod_packages,
            pod(): _push_pod,
        }
    debian.install_missing()
    with _workshop() as workshop:
        for name, push in builders.items():
            if name not in workshop.images:
                _say(f"building the image {name} (once)")
                started_s = time.monotonic()
                push(workshop, name)
                shutil.rmtree(workshop.aside)  # the next one needs the space
                workshop.aside.mkdir()
                _say(f"built {name} in {time.monotonic() - started_s:.0f} s")


@contextmanager
def _workshop() -> Iterator[Workshop]:
    with (
        locked(FOLDER),
        running_registry(FOLDER) as registry,
        Images(registry.host) as images,
        running_builder(FOLDER / "buildah") as builder,
        tempfile.TemporaryDirectory(dir=FOLDER) as aside,
    ):
        yield Workshop(registry.host, images, builder, Path(aside))


def _push_pause(workshop: Workshop, name: str) -> None:
    layer = workshop.aside / "pause.tar"
    with tarfile.open(layer, "w") as files:
        files.add(tool("pause"), "pause")
    settings = {"Entrypoint": ["/pause"], "User": "65535:65535"}
    workshop.images.push(name, [layer], settings=settings)


def _push_base(workshop: Workshop, name: str) -> None:
    root, layer = workshop.aside / "root", workshop.aside / "base.tar"
    debian.make_root(root, packages=_BASE_PACKAGES)
    # Whatever this machine trusts: its way to package indexes may lead through a proxy.
    shutil.copy(Path("/", _TRUSTED), root / _TRUSTED)
    with tarfile.open(layer, "w") as files:
        files.add(root, ".", filter=_no_devices)
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    settings = {"Env": [path, f"SSL_CERT_FILE=/{_TRUSTED}"], "Cmd": ["python3"]}
    workshop.images.push(name, [layer], settings=settings)


def _push_control(workshop: Workshop, name: str) -> None:
    _push_built(workshop, name, ROOT, _containerfile("control"), base=base())


def _push_postgresql(workshop: Workshop, name: str) -> None:
    _push_built(workshop, name, _POSTGRESQL, _POSTGRESQL / "Containerfile", base=base())


def _push_pod_packages(workshop: Workshop, name: str) -> None:
    containerfile = workshop.aside / "Containerfile"
    containerfile.write_text(_POD_PACKAGES)
    uv_cache = Path(os.environ.get("UV_CACHE_DIR", Path.home() / ".cache" / "uv"))
    uv_cache.mkdir(parents=True, exist_ok=True)
    volumes = [f"{uv_cache}:/cache", f"{ROOT / '.tools' / 'bin'}:/tools:ro"]
    _push_built(workshop, name, ROOT, containerfile, base=base(), volumes=volumes)


def _push_pod(workshop: Workshop, name: str) -> None:
    """The shipped Containerfile, in a context whose list of packages is empty: they are below."""
    context = workshop.aside / "context"
    for source in _SOURCES:
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        (context / source).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / source, context / source)
    (context / "requirements" / "pods.txt").write_text("")
    _push_built(workshop, name, context, _containerfile("pod"), base=_pod_packages())


def _push_built(
    workshop: Workshop,
    name: str,
    context: Path,
    containerfile: Path,
    *,
    base: str,
    volumes: list[str] | None = None,
) -> None:
    workshop.builder.build_and_push(
        f"{workshop.host}/{name}",
        context,
        containerfile=containerfile,
        arguments={"BASE": f"{workshop.host}/{base}"},
        volumes=volumes or [],
    )


def _pod_packages() -> str:
    # Its first lines are about the whole project's dependencies, not about these.
    lock = (ROOT / "requirements" / "pods.txt").read_text().splitlines()
    pins = [line for line in lock if not line.startswith("#")]
    return f"pod-packages:{_digest(base(), _POD_PACKAGES, *pins)}"


def _containerfile(kind: str) -> Path:
    return ROOT / "deployments" / "images" / kind / "Containerfile"


def _sources() -> list[Path]:
    found = (ROOT / source for source in _SOURCES)
    files = (file for each in found for file in (each.rglob("*") if each.is_dir() else [each]))
    return sorted(file for file in files if file.is_file() and "__pycache__" not in file.parts)


def _no_devices(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """A container gets its own."""
    return None if entry.isdev() else entry


def _digest(*parts: str | Path) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:12]


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    build(product=True)
