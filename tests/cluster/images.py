"""Container images for the tests' node, built here: no registry but the tests' own is asked."""

import io
import subprocess
import tarfile
from pathlib import Path

from tests.cluster.build import tool

PAUSE = "pause:tests"


def push_pause(registry: str) -> None:
    """Push the image that holds each pod's namespaces to `registry`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        files.add(tool("pause"), "pause")
    push_layer(layer.getvalue(), f"{registry}/{PAUSE}", "--entrypoint=/pause")


def push_layer(layer: bytes, name: str, *settings: str) -> None:
    """Push an image of this one layer, with `crane mutate`'s settings."""
    crane("append", "--new_layer=-", f"--new_tag={name}", stdin=layer)
    crane("mutate", name, f"--tag={name}", "--set-platform=linux/amd64", *settings)


def crane(*arguments: str | Path, stdin: bytes = b"") -> str:
    """What crane prints."""
    answer = subprocess.run(
        [tool("crane"), *arguments], input=stdin, capture_output=True, check=False
    )
    if answer.returncode != 0:
        words = " ".join(map(str, arguments))
        raise RuntimeError(f"crane {words} should succeed, but said: {answer.stderr.decode()}")
    return answer.stdout.decode()
