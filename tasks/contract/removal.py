"""Removing folders that strangers filled."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def remove_tree(folder: Path) -> None:
    """Have nothing at `folder`, whatever lies in it; what cannot be removed stays, without a word.

    shutil.rmtree recurses: a folder nested a thousand deep ends it, `ignore_errors` or not.
    """
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
        return
    found, waiting = [], [str(folder)]
    while waiting:
        found.append(waiting.pop())
        with suppress(OSError), os.scandir(found[-1]) as entries:
            waiting += _emptied(entries)
    for each in reversed(found):
        with suppress(OSError):
            Path(each).rmdir()


def _emptied(entries: "Iterator[os.DirEntry[str]]") -> list[str]:
    """The folders among the entries; the files are gone."""
    folders = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
            continue
        with suppress(OSError):
            Path(entry.path).unlink()
    return folders
