"""Asks where a dataset lies by what it would be known again; nothing of it is downloaded.

A volume cannot be looked into from here, nor a private network: pods read what is there, and
compare bytes.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tasks.contract.data_marks import DataMarks, FileMark
from tasks.contract.errors import (
    AddressForbidden,
    DatasetUnreachable,
    DownloadFailed,
    KaitoflowError,
    RegistryDenied,
)
from tasks.contract.image_reference import parse_reference
from tasks.contract.workspace import Workspace
from tasks.plan.addresses import expect_address, file_path, is_file
from tasks.plan.asking import ask, login_file
from tasks.platform.base import Platform
from tasks.remote.file_server import Client, open_client, probe, shown
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository
from tasks.settings import Settings

_VOLUME = "volume"


async def look_at_data(workspace: Workspace, settings: Settings, platform: Platform) -> DataMarks:
    """What is known of the Workspace's dataset now, file by file.

    Raises: DatasetUnreachable, DownloadFailed: of the first file that has one.
    """
    assert workspace.tuning
    source, is_cluster = workspace.tuning.input, platform.is_cluster
    if source.image:
        logins = await platform.pull_logins(workspace)
        mark = await _of_image(source.image, settings, logins=logins, public_only=is_cluster)
        return DataMarks(files=(mark,))
    if not source.urls:
        return DataMarks(files=(FileMark(name=_VOLUME),))
    for url in source.urls:
        expect_address(url, is_cluster=is_cluster)
    allow_local = settings.allow_local_addresses and not is_cluster
    with open_client(allow_local_addresses=allow_local) as client:
        limit_s = settings.plan_timeout_s
        marks = [await _of_url(client, url, limit_s=limit_s) for url in source.urls]
    return DataMarks(files=tuple(marks))


async def seen_data(workspace: Workspace, settings: Settings, platform: Platform) -> DataMarks:
    """The same for who reads the dataset anyway: empty where it cannot be looked at from here."""
    try:
        return await look_at_data(workspace, settings, platform)
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


async def _of_image(
    image: str, settings: Settings, *, logins: Sequence[bytes], public_only: bool
) -> FileMark:
    """What an image is known by to nobody in particular, or else to who has one of the logins."""
    reference, digest = parse_reference(image), None

    def asked(login: bytes | None) -> str | None:
        with (
            login_file(login) as docker_config,
            Repository(
                reference,
                "pull",
                docker_config=docker_config,
                insecure=settings.insecure_registries,
                patience=Patience(broken_s=0),
                public_only=public_only,
            ) as repository,
        ):
            return repository.manifest_digest()

    for login in (None, *logins):
        try:
            digest = await ask(partial(asked, login), limit_s=settings.plan_timeout_s)
        except RegistryDenied:
            continue
        except (TimeoutError, KaitoflowError):
            break  # its pod has the way to it
        if digest:
            break
    return FileMark(name=str(reference), digest=digest or "")
