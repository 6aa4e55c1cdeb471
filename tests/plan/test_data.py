"""What a plan says of the dataset, and how many tokens it expects of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.artifacts import Check
from tasks.contract.continuing import CONTINUE_ANNOTATION
from tasks.contract.errors import AddressForbidden, InvalidWorkspace
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.data import dataset, expected_tokens, with_absolute_files
from tasks.plan.findings import DatasetSeen, Findings
from tasks.platform.base import World
from tests.builders import tuning_manifest, tuning_workspace

HERE = World(config_maps={}, has_secret=lambda _name: True)
CLUSTER = replace(HERE, is_cluster=True)
MIB = 2**20
VOLUME = {"persistentVolumeClaim": {"claimName": "rows"}}


def of(*urls: str, **source: Any) -> Workspace:
    return tuning_workspace(input={"urls": [*urls]} if urls else source)


def told(workspace: Workspace, *sizes: int | None, world: World = CLUSTER) -> Check | str:
    seen = DatasetSeen(bytes=sizes) if sizes else None
    return dataset(workspace, world, Findings(dataset=seen))


A, B = "https://host/a.jsonl", "https://host/b.jsonl"


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((), "2 file(s), verified before training"),
        ((None, None), "2 file(s), verified before training"),
        ((1024, MIB - 1024), "2 file(s), 1.0 MiB, verified before training"),
        ((1024, MIB - 2048), "2 file(s), 1,023 KiB, verified before training"),
        ((3 * MIB, None), "2 file(s), at least 3.0 MiB, verified before training"),
    ],
)
def test_as_much_of_the_size_as_is_known_is_told(sizes: tuple[int | None, ...], said: str) -> None:
    assert told(of(A, B), *sizes) == said


def test_files_of_this_machine_are_measured_here(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"x" * 2048)
    workspace = of((tmp_path / "rows.jsonl").as_uri())
    assert told(workspace, world=HERE) == "1 file(s), 2 KiB, verified before training"
    assert expected_tokens(workspace, Findings()) == 512


@pytest.mark.parametrize(
    ("source", "where"),
    [({"image": "r.io/d:1"}, "r.io/d:1"), ({"volumeSource": VOLUME}, "a volume")],
)
def test_an_image_and_a_volume_are_a_cluster_s(source: dict[str, Any], where: str) -> None:
    assert told(of(**source)) == f"{where}, verified before training"
    asked = "image" if "image" in source else "volumeSource"
    with pytest.raises(InvalidWorkspace, match=rf"tuning\.input\.{asked} was asked for"):
        told(of(**source), world=HERE)


def test_a_volume_that_a_schedule_has_looked_at_is_told_to_start_a_pod_each_time() -> None:
    manifest = tuning_manifest(input={"volumeSource": VOLUME})
    manifest["metadata"]["annotations"] = {"kaitoflow.io/retune-on": "data-change"}
    said = told(parse_workspace(manifest, source="test"))
    assert isinstance(said, Check)
    assert (said.name, said.result) == ("dataset", "warn")
    assert "each look that is due for a retuning starts one, with a node for it" in said.detail


def test_an_address_inside_is_left_to_the_pod_on_a_cluster_and_refused_here() -> None:
    inside = AddressForbidden("10.0.0.1 was to be asked", "it is private", "use a public one")
    found = Findings(dataset=inside)
    assert dataset(of(A), CLUSTER, found) == Check(
        name="dataset",
        result="warn",
        detail="1 file(s); 10.0.0.1 was to be asked, and was not asked from here",
        fix="its pod asks, where KAITOFLOW_ALLOW_LOCAL_ADDRESSES lets it",
    )
    assert dataset(of(A), HERE, found) == Check(
        name="dataset",
        result="fail",
        detail="1 file(s); 10.0.0.1 was to be asked; it is private",
        fix="use a public one",
        reason="AddressForbidden",
    )


@pytest.mark.parametrize(
    ("urls", "sizes", "tokens"),
    [
        ((A,), (4000,), 1000),
        ((A, B), (4000, 400), 1100),
        # A columnar file holds about twice its size in text.
        (("https://host/a.parquet?x=1",), (4000,), 2000),
        ((A, "https://host/b.parquet"), (4000, 4000), 3000),
        ((A, B), (4000, None), None),
        ((A,), (), None),
    ],
)
def test_tokens_are_expected_only_where_every_size_is_known(
    urls: tuple[str, ...], sizes: tuple[int | None, ...], tokens: int | None
) -> None:
    found = Findings(dataset=DatasetSeen(bytes=sizes) if sizes else None)
    assert expected_tokens(of(*urls), found) == tokens


def test_of_an_image_no_tokens_are_expected() -> None:
    assert expected_tokens(of(image="r.io/d:1"), Findings()) is None


def test_addresses_of_others_and_absolute_files_stay_as_they_are(tmp_path: Path) -> None:
    workspace = of(A, "file:///abs/a.jsonl", "file:b.jsonl")
    kept = with_absolute_files(workspace, tmp_path).tuning
    assert kept
    assert kept.input.urls == [A, "file:///abs/a.jsonl", (tmp_path / "b.jsonl").as_uri()]


@pytest.mark.parametrize(
    ("start", "kept"),
    [("./out/adapter", "{base}/out/adapter"), ("/out", "/out"), ("r.io/a:1", "r.io/a:1")],
)
def test_a_folder_to_go_on_from_is_counted_from_where_the_file_is(
    start: str, kept: str, tmp_path: Path
) -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {CONTINUE_ANNOTATION: start}
    made = with_absolute_files(parse_workspace(manifest, source="test"), tmp_path)
    assert made.metadata.annotations == {CONTINUE_ANNOTATION: kept.format(base=tmp_path)}


def test_a_web_page_is_told_instead_of_a_file() -> None:
    seen = DatasetSeen(bytes=(None,), web_pages=(A,))
    assert dataset(of(A), CLUSTER, Findings(dataset=seen)) == Check(
        name="dataset",
        result="warn",
        detail=f"1 file(s); {A} is a web page, not a file",
        fix="give the address of the file itself (the one behind Raw or Download)",
    )


def test_what_is_behind_a_hash_is_not_asked_for_and_told() -> None:
    assert told(of(A, f"{B}#part")) == Check(
        name="dataset",
        result="warn",
        detail="2 file(s); nothing after the # is asked for (#part)",
        fix="write %23 where the # is part of the file's name",
    )


def test_a_password_in_an_address_is_told_where_others_see_it() -> None:
    url = "https://ana:secret@host/a.jsonl"
    check = told(of(url))
    assert isinstance(check, Check)
    assert (check.result, check.fix) == (
        "warn",
        "give an address that is signed for a while, an image or a volume",
    )
    assert "all see who see the Workspace" in check.detail
    assert told(of(url), world=HERE) == "1 file(s), verified before training"
