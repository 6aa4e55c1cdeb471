"""A dataset is known again by what its servers and files say of it."""

import hashlib
import json
import os
from pathlib import Path

import httpx2
import pytest

from tasks.contract.data_marks import DataMarks, compare
from tasks.contract.errors import DatasetUnreachable, DownloadFailed
from tasks.plan import marks
from tasks.plan.marks import _of_file, _of_image, look_at_data, seen_data
from tasks.platform.base import Platform
from tasks.platform.kubernetes import KubernetesPlatform
from tasks.platform.local import LocalPlatform
from tasks.settings import Settings
from tests.builders import tuning_workspace
from tests.cluster.registry import PASSWORD, USER, docker_config, running_registry
from tests.dataset.web import running_web
from tests.image.scripted import scripted

SETTINGS = Settings(allow_local_addresses=True)
_INDEX = "application/vnd.oci.image.index.v1+json"


HERE, CLUSTER = LocalPlatform(SETTINGS), KubernetesPlatform(SETTINGS)


async def look(*urls: str, platform: Platform = HERE) -> DataMarks:
    workspace = tuning_workspace(input={"urls": [*urls]})
    return await look_at_data(workspace, SETTINGS, platform)


async def test_a_server_s_file_is_known_by_what_its_headers_say() -> None:
    with running_web() as web:
        url = web.serve_bytes("/rows.jsonl", b"{}\n", ETag='"a"', Last_Modified="Mon")
        [mark] = (await look(url)).files
    assert (mark.etag, mark.modified, mark.bytes) == ('"a"', "Mon", 3)


async def test_no_password_of_an_address_is_kept() -> None:
    with running_web() as web:
        url = web.serve_bytes("/rows.jsonl", b"{}\n")
        [mark] = (await look(url.replace("://", "://ana:secret@") + "?sig=secret")).files
    assert "secret" not in mark.model_dump_json()


async def test_a_file_that_was_only_touched_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    before = await look(file.as_uri())
    os.utime(file, (1, 1))
    assert compare(before, await look(file.as_uri())).is_same


async def test_a_file_with_other_bytes_of_the_same_size_and_time_has_changed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("[1]\n")
    os.utime(file, (1, 1))
    before = await look(file.as_uri())
    file.write_text("[2]\n")
    os.utime(file, (1, 1))
    assert not compare(before, await look(file.as_uri())).is_same


async def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnreachable):
        await look((tmp_path / "rows.jsonl").as_uri())


async def test_an_address_inside_a_cluster_s_network_is_its_pods_to_look_at() -> None:
    with running_web() as web:
        seen = await look(web.serve_bytes("/rows.jsonl", b"{}\n"), platform=CLUSTER)
        assert web.asked == []
    assert not compare(seen, seen).is_same


async def test_a_volume_has_to_be_read_to_know() -> None:
    workspace = tuning_workspace(input={"volumeSource": {"emptyDir": {}}})
    seen = await look_at_data(workspace, SETTINGS, CLUSTER)
    assert not compare(seen, seen).is_same


async def look_at(**source: object) -> DataMarks:
    workspace = tuning_workspace(input=source)
    return await look_at_data(workspace, SETTINGS, CLUSTER)


async def test_an_image_inside_is_known_by_its_name_alone_and_not_asked() -> None:
    """Its pod has the login, and the way to it."""
    with scripted() as registry:
        [mark] = (await look_at(image=f"{registry.host}/rows:1")).files
        assert not registry.heard
    assert (mark.name, mark.digest) == (f"{registry.host}/rows:1", "")


async def test_an_image_behind_a_password_is_known_to_who_has_one_of_the_logins(
    tmp_path: Path,
) -> None:
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": []}
    with running_registry(tmp_path, auth=True) as registry:
        pushed = httpx2.put(
            f"{registry.url}/v2/rows/manifests/1",
            content=json.dumps(index),
            headers={"Content-Type": _INDEX},
            auth=(USER, PASSWORD),
        )
        mine, other = docker_config(registry.host).encode(), b'{"auths": {}}'
        digests = [
            (
                await _of_image(
                    f"{registry.host}/rows:1", SETTINGS, logins=logins, public_only=False
                )
            ).digest
            for logins in ([], [other], [other, mine])
        ]
    assert digests == ["", "", pushed.headers["Docker-Content-Digest"]]


async def test_a_volume_says_nothing_of_what_is_on_it() -> None:
    [mark] = (await look_at(volumeSource={"persistentVolumeClaim": {"claimName": "rows"}})).files
    assert (mark.digest, mark.bytes) == ("", None)


async def test_what_cannot_be_looked_at_from_here_is_empty_for_who_reads_it_anyway() -> None:
    gone = tuning_workspace(input={"urls": ["file:/no/such/rows.jsonl"]})
    assert await seen_data(gone, SETTINGS, HERE) == DataMarks()


async def test_a_server_that_does_not_answer_in_time_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def too_late(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(marks, "ask", too_late)
    with pytest.raises(DownloadFailed, match="no answer within 2 s; .*KAITOFLOW_PLAN_TIMEOUT_S"):
        await look_at_data(tuning_workspace(), Settings(plan_timeout_s=2), CLUSTER)
    [mark] = (await look_at(image="registry.example.com/rows:1")).files
    assert (mark.name, mark.digest) == ("registry.example.com/rows:1", "")


async def test_an_image_that_everybody_may_read_is_known_by_its_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def told(*_: object, limit_s: float) -> str:
        assert limit_s == SETTINGS.plan_timeout_s
        return "sha256:0"

    monkeypatch.setattr(marks, "ask", told)
    seen = await look_at(image="registry.example.com/rows:1")
    assert [mark.digest for mark in seen.files] == ["sha256:0"]
    assert compare(seen, seen).is_same


async def test_a_file_is_known_by_its_size_and_digest(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    [mark] = (await look(file.as_uri())).files
    digest = hashlib.sha256(b"{}\n").hexdigest()
    assert (mark.bytes, mark.digest) == (3, f"sha256:{digest}")


def test_a_file_that_cannot_be_read_is_told_in_the_system_s_words(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnreachable, match="rows was to be looked at; Is a directory; put"):
        _of_file(tmp_path, "rows")
