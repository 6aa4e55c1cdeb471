"""Asks where a dataset lies by what it would be known again; nothing of it is downloaded.

A volume cannot be looked into from here, nor an image that wants a login, nor a private network:
their pods read them, and compare bytes.
"""

import asyncio
import hashlib
from pathlib import Path

from tasks.contract.data_marks import DataMarks, FileMark
from tasks.contract.errors import (
    AddressForbidden,
    DatasetUnreachable,
    DownloadFailed,
    KaitoflowError,
)
from tasks.contract.image_reference import parse_reference
from tasks.contract.workspace import DataSource, Workspace
from tasks.plan.addresses import expect_address, file_path, is_file
from tasks.plan.asking import ask
from tasks.remote.file_server import Client, open_client, probe, shown
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository
from tasks.settings import Settings

_VOLUME = "volume"


async def look_at_data(workspace: Workspace, settings: Settings, *, is_cluster: bool) -> DataMarks:
    """What is known of the Workspace's dataset now, file by file.

    Raises: DatasetUnreachable, DownloadFailed: of the first file that has one.
    """
    assert workspace.tuning
    source = workspace.tuning.input
    if not source.urls:
        return DataMarks(files=(await _of_store(source, settings),))
    for url in source.urls:
        expect_address(url, is_cluster=is_cluster)
    allow_local = settings.allow_local_addresses and not is_cluster
    with open_client(allow_local_addresses=allow_local) as client:
        limit_s = settings.plan_timeout_s
        marks = [await _of_url(client, url, limit_s=limit_s) for url in source.urls]
    return DataMarks(files=tuple(marks))


async def seen_data(workspace: Workspace, settings: Settings, *, is_cluster: bool) -> DataMarks:
    """The same for who reads the dataset anyway: empty where it cannot be looked at from here."""
    try:
        return await look_at_data(workspace, settings, is_cluster=is_cluster)
    except KaitoflowError:
        return DataMarks()


async def _of_url(client: Client, url: str, *, limit_s: float) -> FileMark:
    if is_file(url):
        return await asyncio.to_thread(_of_file, file_path(url), shown(url))
    try:
        found = await ask(lambda: probe(client, url), limit_s=limit_s)
    except AddressForbidden:
        return FileMark(name=shown(url))  # of a private network, which its pods may look into
    except TimeoutError:
        raise DownloadFailed(
            f"{shown(url)} was asked whether it has changed",
            f"there was no answer within {limit_s:g} s",
            "it is asked again at the next look; KAITOFLOW_PLAN_TIMEOUT_S allows more",
        ) from None
    return FileMark(name=shown(url), etag=found.etag, modified=found.modified, bytes=found.bytes)


def _of_file(path: Path, name: str) -> FileMark:
    """What a file of this machine holds; its time says nothing, since a copy may keep it."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileMark(name=name, bytes=path.stat().st_size, digest=f"sha256:{digest}")
    except OSError as error:
        raise DatasetUnreachable(
            f"{name} was to be looked at",
            str(error.strerror),
            "put it back, or correct the address",
        ) from None


async def _of_store(source: DataSource, settings: Settings) -> FileMark:
    if not source.image:
        return FileMark(name=_VOLUME)
    reference = parse_reference(source.image)

    def asked() -> str | None:
        with Repository(
            reference,
            "pull",
            docker_config=None,
            insecure=settings.insecure_registries,
            patience=Patience(broken_s=0),
            public_only=True,
        ) as repository:
            return repository.manifest_digest()

    try:
        digest = await ask(asked, limit_s=settings.plan_timeout_s)
    except (TimeoutError, KaitoflowError):
        digest = None  # its pod has the login, and the way to it
    return FileMark(name=str(reference), digest=digest or "")
