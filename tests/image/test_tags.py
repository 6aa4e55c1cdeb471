"""The tags of a repository are read to their end, and what is no list of tags is told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.contract.errors import RegistryDenied, RegistryUnavailable
from tasks.contract.image_reference import parse_reference
from tasks.image.pod.push import push_image
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository
from tests.cluster.registry import RunningRegistry
from tests.image.builders import push_config, write_adapter
from tests.image.scripted import Answer, Scripted, scripted


@pytest.fixture
def home() -> Iterator[Scripted]:
    with scripted() as script:
        yield script


def tags_of(host: str, repository: str = "team/phi") -> tuple[str, ...]:
    reference = parse_reference(f"{host}/{repository}:v1")
    with Repository(reference, "pull", patience=Patience(0)) as asked:
        return asked.tags()


def listed(*tags: str, following: str = "") -> Answer:
    link = {"Link": f'<{following}>; rel="next"'} if following else {}
    return Answer(headers=link, body=json.dumps({"name": "team/phi", "tags": tags}).encode())


def test_a_registry_tells_all_tags_and_none_of_what_is_not_there(
    registry: RunningRegistry, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    for tag in ("1", "1-g2"):
        push_image(push_config(adapter, f"{registry.host}/team/listed:{tag}"))
    assert sorted(tags_of(registry.host, "team/listed")) == ["1", "1-g2"]
    assert tags_of(registry.host, "team/never-pushed") == ()


def test_pages_are_followed(home: Scripted) -> None:
    home.answers["GET /v2/team/phi/tags/list"] = listed("a", following="/next?last=a")
    home.answers["GET /next"] = listed("b", "c")
    assert tags_of(home.host) == ("a", "b", "c")


def test_pages_without_end_end(home: Scripted) -> None:
    home.answers["GET /v2/team/phi/tags/list"] = listed("a", following="/v2/team/phi/tags/list")
    assert len(tags_of(home.host)) == len(home.asked) == 20


def test_a_repository_may_have_no_tags(home: Scripted) -> None:
    home.answers["GET /v2/team/phi/tags/list"] = Answer(body=b'{"tags": null}')
    assert tags_of(home.host) == ()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"tags": 3}', b"<html>", b"[" * 99999])
def test_what_is_no_list_of_tags_is_told(home: Scripted, body: bytes) -> None:
    home.answers["GET /v2/team/phi/tags/list"] = Answer(body=body)
    with pytest.raises(RegistryUnavailable, match="its list of tags is none"):
        tags_of(home.host)


def test_a_list_that_is_too_long_is_not_read_to_its_end(home: Scripted) -> None:
    home.answers["GET /v2/team/phi/tags/list"] = listed("a" * 5 * 2**20)
    with pytest.raises(RegistryUnavailable, match="its list of tags has over 4194304 bytes"):
        tags_of(home.host)


def test_who_may_not_list_is_refused(home: Scripted) -> None:
    home.answers["GET /v2/team/phi/tags/list"] = Answer(403)
    with pytest.raises(RegistryDenied):
        tags_of(home.host)
