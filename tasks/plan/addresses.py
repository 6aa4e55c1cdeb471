"""Addresses at which no file can ever be fetched, each with the one that may be meant. Pure."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tasks.contract.errors import DatasetUnreachable

_DATA_FILE = re.compile(
    r".*\.(jsonl?|ndjson|csv|tsv|parquet|arrow|feather|txt|xlsx?|gz|zst|bz2|xz|zip)", re.IGNORECASE
)
_WINDOWS = re.compile(r"([A-Za-z]):[\\/](.*)")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB = "https://huggingface.co"
# Azure's schemes name container and account: abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH.
_AZURE = re.compile(r"(abfss?|wasbs?)://([^@/]+)@([^./]+)\.\w+\.core\.windows\.net/(.+)")
# Sites whose addresses in a browser are pages about a file, and what leads to the file itself.
_PAGES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(https?://huggingface\.co/.+?)/blob/(.+)"), r"\1/resolve/\2"),
    (
        re.compile(r"(https?://huggingface\.co/datasets/[^/?#]+/[^/?#]+)(/tree/.*|/viewer.*|/?)"),
        r"\1/resolve/main/FILE",
    ),
    (re.compile(r"(https?://github\.com/[^/]+/[^/]+)/blob/(.+)"), r"\1/raw/\2"),
    (re.compile(r"(https?://gitlab\.com/.+?)/-/blob/(.+)"), r"\1/-/raw/\2"),
    (
        re.compile(r"https?://drive\.google\.com/file/d/([\w-]+).*"),
        r"https://drive.google.com/uc?export=download&id=\1",
    ),
    (re.compile(r"(https?://www\.dropbox\.com/.+)"), r"\1 with its ?query, dl=1 in place of dl=0"),
)


def is_web(url: str) -> bool:
    """Whether an address is one of http or https."""
    return url.lower().startswith(("http://", "https://"))


def is_file(url: str) -> bool:
    """Whether an address is one of a file on this machine."""
    return url.lower().startswith("file:")


def file_path(url: str) -> Path:
    """The path of a `file:` address; # and ? are parts of a name, since files have no queries."""
    path = url[len("file:") :]
    return Path(unquote(re.sub(r"^//(localhost)?(?=/)", "", path)))


def expect_address(url: str, *, is_cluster: bool) -> None:
    """Nothing, if a file may be there.

    Raises: DatasetUnreachable: it can never be fetched; offers the right form.
    """
    if is_file(url):
        _expect_file(url, is_cluster=is_cluster)
    elif is_web(url):
        _expect_file_of_a_site(url)
    else:
        found, fix = _not_an_address(url, is_cluster=is_cluster)
        raise DatasetUnreachable(f"{_told(url)} was asked for", found, fix)


def _told(url: str) -> str:
    """The address without a password, a query and a fragment, which may be secret.

    A name alone before the @ stays: in Azure's addresses it is the container's.
    """
    return re.split(r"[?#]", re.sub(r"//[^/@]*:[^/@]*@", "//", url), maxsplit=1)[0]


def _expect_file(url: str, *, is_cluster: bool) -> None:
    path = file_path(url)
    if is_cluster:
        found = "a pod cannot read files of your machine"
        fix = "give an http(s) URL, or an image or a volumeSource"
    elif str(path).startswith("//"):
        name = str(path).removeprefix("//")
        found, fix = "two slashes begin a machine's name", f"write file:{name}, or file:///{name}"
    elif path.is_dir():
        found, fix = "it is a folder", "name each of its files"
    elif not path.is_file():
        found = "there is no such file"
        fix = "correct the path (a relative one counts from the Workspace's file)"
    else:
        return
    raise DatasetUnreachable(f"{_told(url)} was asked for", found, fix)


def _expect_file_of_a_site(url: str) -> None:
    if not urlsplit(url).hostname:
        raise DatasetUnreachable(f"{_told(url)} was asked for", "it names no host", "correct it")
    told = _told(url)
    for page, file in _PAGES:
        if page.fullmatch(told) and "dl=1" not in url:
            raise DatasetUnreachable(
                f"{told} was asked for",
                "it is the page of a file and not the file",
                f"write {page.sub(file, told)}",
            )


def _not_an_address(url: str, *, is_cluster: bool) -> tuple[str, str]:
    """What an address is that begins with none of http:, https: and file:, and the fix."""
    if windows := _WINDOWS.fullmatch(url):
        drive, rest = windows.groups()
        path = f"{drive}:/{rest}".replace("\\", "/")
        return "it is a path, not an address", _fix_of_path(f"file:///{path}", is_cluster)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if scheme:
        offer = _OF_STORES.get(scheme[1].lower(), _nothing)(_told(url))
        fix = f"write {offer}" if offer else "use an http or https address of the file"
        return f"{scheme[1]}: addresses are not read here", fix
    if _HUB_NAME.fullmatch(url) and not _DATA_FILE.fullmatch(url) and url[0] not in "./":
        return (
            "it is the name of a dataset on the Hugging Face hub, or a path, not an address",
            f"write the address of each of its files: {_HUB}/datasets/{url}/resolve/main/FILE",
        )
    return "it is a path, not an address", _fix_of_path(f"file:{quote(url)}", is_cluster)


def _fix_of_path(address: str, is_cluster: bool) -> str:  # noqa: FBT001  one of two callers' flag
    if is_cluster:
        return "give an http(s) URL, or an image or a volumeSource: a pod has no files of yours"
    return f"write {address}"


def _nothing(_url: str) -> str | None:
    return None


def _s3(url: str) -> str | None:
    bucket, _, key = url.partition("://")[2].partition("/")
    return (
        f"https://{bucket}.s3.amazonaws.com/{key} (or a presigned https address)" if key else None
    )


def _gs(url: str) -> str | None:
    return f"https://storage.googleapis.com/{url.partition('://')[2]} (or a signed https address)"


def _hub(url: str) -> str | None:
    parts = re.fullmatch(r"hf://datasets/([^/]+/[^/@]+)(?:@([^/]+))?/(.+)", url)
    if not parts:
        return f"{_HUB}/datasets/OWNER/NAME/resolve/main/FILE"
    name, revision, file = parts.groups()
    return f"{_HUB}/datasets/{name}/resolve/{revision or 'main'}/{file}"


def _azure(url: str) -> str | None:
    parts = _AZURE.fullmatch(url)
    if not parts:
        return None
    _, container, account, path = parts.groups()
    return f"https://{account}.blob.core.windows.net/{container}/{path} (with a SAS, if private)"


_OF_STORES: dict[str, Callable[[str], str | None]] = {
    "s3": _s3,
    "s3a": _s3,
    "gs": _gs,
    "hf": _hub,
    "abfs": _azure,
    "abfss": _azure,
    "wasb": _azure,
    "wasbs": _azure,
}
