"""A secret in an address, and where it may not be found."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

CANARY = "canary-5b1f"
_GZIP = b"\x1f\x8b"


def signed(url: str) -> str:
    """The address with a password and a signature."""
    return f"{url.replace('//', f'//user:{CANARY}@')}?sv=1&sig={CANARY}"


def holding(folder: Path, text: str) -> list[Path]:
    """The files that have the text in them, packed ones unpacked."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if data.startswith(_GZIP):
                data = gzip.decompress(data)
            if text.encode() in data:
                found.append(path)
    return found


@contextmanager
def seen_arguments() -> Iterator[set[str]]:
    """The arguments of each process of this machine while the block runs, as anybody sees them."""
    seen: set[str] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.1):
            for process in psutil.process_iter(["cmdline"]):
                seen.add(" ".join(process.info["cmdline"] or ()))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        is_over.set()
        looking.join()
