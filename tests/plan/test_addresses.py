"""An address at which no file can be is refused by the plan, with the one that was meant."""

from pathlib import Path

import pytest

from tasks.contract.errors import DatasetUnreachable
from tasks.plan.addresses import expect_address, file_path
from tasks.plan.data import with_absolute_files
from tests.builders import tuning_workspace

HUB = "https://huggingface.co/datasets"


@pytest.mark.parametrize(
    ("url", "offer"),
    [
        ("data.jsonl", "write file:data.jsonl"),
        ("./my data.jsonl", "write file:./my%20data.jsonl"),
        ("/mnt/data.parquet", "write file:/mnt/data.parquet"),
        ("data/rows.jsonl.gz", "write file:data/rows.jsonl.gz"),
        (r"C:\Users\me\rows.jsonl", "write file:///C:/Users/me/rows.jsonl"),
        ("C:/rows.jsonl", "write file:///C:/rows.jsonl"),
        ("tatsu-lab/alpaca", f"{HUB}/tatsu-lab/alpaca/resolve/main/FILE"),
        ("hf://datasets/a/b/data/x.parquet", f"write {HUB}/a/b/resolve/main/data/x.parquet"),
        ("hf://datasets/a/b@v2/x.parquet", f"write {HUB}/a/b/resolve/v2/x.parquet"),
        ("s3://bucket/a/b.jsonl", "write https://bucket.s3.amazonaws.com/a/b.jsonl"),
        ("./rows", "write file:./rows"),
        ("hf://a/b", f"write {HUB}/OWNER/NAME/resolve/main/FILE"),
        (
            "wasbs://data@store.blob.core.windows.net/a.jsonl",
            "write https://store.blob.core.windows.net/data/a.jsonl",
        ),
        ("abfs://data", "use an http or https address"),
        ("s3a://bucket/a.jsonl", "write https://bucket.s3.amazonaws.com/a.jsonl"),
        ("s3://bucket", "use an http or https address"),
        ("gs://bucket/a.jsonl", "write https://storage.googleapis.com/bucket/a.jsonl"),
        (
            "abfss://data@store.dfs.core.windows.net/a.jsonl",
            "write https://store.blob.core.windows.net/data/a.jsonl",
        ),
        ("ftp://example.com/a.jsonl", "use an http or https address"),
        (f"{HUB}/a/b/blob/main/x.parquet", f"write {HUB}/a/b/resolve/main/x.parquet"),
        (f"{HUB}/a/b", f"write {HUB}/a/b/resolve/main/FILE"),
        (f"{HUB}/a/b/tree/main", f"write {HUB}/a/b/resolve/main/FILE"),
        ("https://github.com/o/r/blob/main/a.csv", "write https://github.com/o/r/raw/main/a.csv"),
        ("https://gitlab.com/o/r/-/blob/main/a.csv", "write https://gitlab.com/o/r/-/raw/main/a"),
        ("https://drive.google.com/file/d/x1/view?usp=sharing", "uc?export=download&id=x1"),
        ("https://www.dropbox.com/s/x/a.csv?dl=0", "dl=1 in place of dl=0"),
        ("https:///a.jsonl", "correct it"),
        ("file://data.jsonl", "write file:data.jsonl, or file:///data.jsonl"),
        ("file:///no/such.jsonl", "correct the path"),
        ("file:/", "name each of its files"),
    ],
)
def test_the_right_form_is_offered(url: str, offer: str) -> None:
    with pytest.raises(DatasetUnreachable) as refusal:
        expect_address(url, is_cluster=False)
    assert offer in refusal.value.fix


@pytest.mark.parametrize(
    "url",
    [
        f"{HUB}/a/b/resolve/main/x.parquet",
        "https://account.blob.core.windows.net/blob/a.jsonl?sig=1",
        "HTTPS://Example.COM/rows.jsonl",
        "https://example.com/blob/main/a.csv",
        "https://www.dropbox.com/s/x/a.csv?dl=1",
    ],
)
def test_addresses_of_files_are_left_alone(url: str) -> None:
    expect_address(url, is_cluster=True)


@pytest.mark.parametrize("url", ["data.jsonl", r"C:\rows.jsonl", "file:///mnt/rows.jsonl"])
def test_on_a_cluster_no_path_is_offered(url: str) -> None:
    with pytest.raises(DatasetUnreachable, match=r"give an http\(s\) URL"):
        expect_address(url, is_cluster=True)


@pytest.mark.parametrize("url", ["ftp://me:s3cret@host/a?sig=s3cret", "s3://b/a?sig=s3cret"])
def test_what_may_be_secret_is_not_told(url: str) -> None:
    with pytest.raises(DatasetUnreachable) as refusal:
        expect_address(url, is_cluster=True)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("name", ["data#1.jsonl", "data?.jsonl", "my data.jsonl", "50%25.jsonl"])
def test_a_file_s_name_may_have_any_letters(name: str, tmp_path: Path) -> None:
    (tmp_path / name.replace("%25", "%")).write_text("{}")
    workspace = with_absolute_files(tuning_workspace(input={"urls": [f"file:{name}"]}), tmp_path)
    assert workspace.tuning
    [url] = workspace.tuning.input.urls
    expect_address(url, is_cluster=False)
    assert file_path(url).read_text() == "{}"
    assert "#" not in url
    assert "?" not in url


def test_a_name_in_the_place_of_a_host_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    given = tuning_workspace(input={"urls": ["file://data.jsonl"]})
    kept = with_absolute_files(given, tmp_path).tuning
    assert kept
    assert kept.input.urls == ["file://data.jsonl"]


@pytest.mark.parametrize(
    "url",
    [
        "file:///nowhere/a.csv?sig=hidden",
        "file:///nowhere/a.csv#hidden",
        "ftp://user:hidden@host/a.csv#hidden",
    ],
)
def test_no_secret_of_a_refused_address_is_told(url: str) -> None:
    with pytest.raises(DatasetUnreachable) as refusal:
        expect_address(url, is_cluster=False)
    assert "hidden" not in str(refusal.value)
