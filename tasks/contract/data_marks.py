"""The marks by which a dataset is known again without reading it, and whether it has changed."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class FileMark(_Part):
    """What is known of one file, image or volume before it is read; empty or None = not known.

    name: its address without what may be secret. digest: of a file's bytes, or of an image.
    """

    name: str
    etag: str = ""
    modified: str = ""
    bytes: int | None = None
    digest: str = ""


class DataMarks(_Part):
    """A dataset as it was when it was looked at.

    digest: of all its bytes, as the dataset's program counted them; empty = they were not read.
    """

    files: tuple[FileMark, ...] = ()
    digest: str = ""

    def with_digest(self, digest: str) -> "DataMarks":
        """The same, after its bytes were read."""
        return self.model_copy(update={"digest": digest})


@dataclass(frozen=True)
class Comparison:
    """Whether two looks saw the very same data, and why, to be read after "the data"."""

    is_same: bool
    why: str


def compare(before: DataMarks | None, now: DataMarks) -> Comparison:
    """Whether the data is surely what it was; where nobody can say without reading, it is not.

    Args: before: None = nothing was tuned from data that was looked at.
    """
    if before is None or not (before.files or before.digest):
        return Comparison(is_same=False, why="was not looked at before")
    if before.digest and before.digest == now.digest:
        return Comparison(is_same=True, why=f"has the same bytes ({now.digest[:12]})")
    if before.digest and now.digest:
        return Comparison(is_same=False, why=f"has other bytes ({now.digest[:12]})")
    names, known = [mark.name for mark in now.files], [mark.name for mark in before.files]
    if names != known:
        return Comparison(is_same=False, why=f"is {len(names)} file(s) where {len(known)} were")
    each = [_compare(*pair) for pair in zip(before.files, now.files, strict=True)]
    other = next((found for found in each if not found.is_same), None)
    if other:
        return other
    return Comparison(is_same=True, why="; ".join(dict.fromkeys(found.why for found in each)))


def _compare(before: FileMark, now: FileMark) -> Comparison:
    """Compare what is known of one file, by what says the most."""
    if before.bytes is not None and now.bytes is not None and before.bytes != now.bytes:
        found = f"has another size ({now.name}: {now.bytes:,} bytes, not {before.bytes:,})"
        return Comparison(is_same=False, why=found)
    for what, old, new in (
        ("digest", before.digest, now.digest),
        ("ETag", before.etag, now.etag),
    ):
        if old and new:
            is_same = old == new
            told = f"the same {what}" if is_same else f"another {what} ({now.name})"
            return Comparison(is_same=is_same, why=f"has {told}")
    if before.modified and now.modified and now.bytes is not None:
        if before.modified == now.modified:
            return Comparison(is_same=True, why=f"was last modified on {now.modified}")
        return Comparison(is_same=False, why=f"was modified on {now.modified} ({now.name})")
    return Comparison(is_same=False, why=f"has to be read to know ({now.name})")
