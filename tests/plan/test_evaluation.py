"""The rows that adapters are measured on are looked at as those of the dataset are."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.contract.artifacts import Check, Tuned
from tasks.contract.errors import AddressForbidden, KaitoflowError
from tasks.contract.evaluation_data import EVALUATION_DATA_ANNOTATION
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.data import with_absolute_files
from tasks.plan.findings import DatasetSeen, Findings
from tasks.plan.look import look
from tasks.plan.tuned import training
from tasks.platform.base import World
from tasks.settings import Settings
from tests.builders import tuning_manifest
from tests.dataset.web import running_web

HERE = World(config_maps={}, has_secret=lambda _name: True)
CLUSTER = replace(HERE, is_cluster=True, push=True)
URL = "https://host/evaluation.jsonl"
INSIDE = AddressForbidden("10.0.0.1 was to be asked", "it is private", "use a public one")


def measured_on(address: str = URL, *, config: str | None = None) -> Workspace:
    manifest = tuning_manifest(**({"config": config} if config else {}))
    manifest["metadata"]["annotations"] = {EVALUATION_DATA_ANNOTATION: address}
    return parse_workspace(manifest, source="test")


def line(
    workspace: Workspace,
    found: DatasetSeen | KaitoflowError | None = None,
    world: World = CLUSTER,
) -> Check:
    plan = make_plan(workspace, world, Findings(evaluation=found))
    return next(check for check in plan.checks if check.name == "evaluation")


@pytest.mark.parametrize(
    ("address", "found", "world", "result", "detail"),
    [
        (URL, DatasetSeen(bytes=(2048,)), HERE, "ok", "are measured on 1 file(s), 2 KiB"),
        (URL, None, CLUSTER, "ok", "what they ask is trained on by none"),
        (URL, DatasetSeen(bytes=(None,), web_pages=(URL,)), HERE, "warn", "is a web page"),
        (URL, INSIDE, CLUSTER, "warn", "was not asked from here"),
        (URL, INSIDE, HERE, "fail", "it is private"),
        ("s3://bucket/rows", None, CLUSTER, "fail", "s3: addresses are not read here"),
        ("file:///rows", None, CLUSTER, "fail", "a pod cannot read files of your machine"),
        ("file:///no/rows", None, HERE, "fail", "there is no such file"),
        (f"{URL} {URL}", None, CLUSTER, "fail", "it names 2 addresses, not one"),
        ("", None, CLUSTER, "fail", "it names 0 addresses, not one"),
    ],
)
def test_its_address_has_a_line_of_the_plan_and_is_refused_where_no_file_can_be(
    address: str,
    found: DatasetSeen | KaitoflowError | None,
    world: World,
    result: str,
    detail: str,
) -> None:
    told = line(measured_on(address), found, world)
    assert told.result == result
    assert detail in told.detail
    assert result == "ok" or told.fix


def test_a_setting_that_holds_rows_out_is_told_to_have_no_effect_beside_it() -> None:
    text = "training_config: {DatasetConfig: {train_test_split: 0.8}}"
    world = replace(CLUSTER, config_maps={"settings": {"training_config.yaml": text}})
    told = line(measured_on(config="settings"), world=world)
    assert told.result == "warn"
    assert "DatasetConfig.train_test_split has no effect beside it" in told.detail


def test_what_serves_is_neither_tuned_anew_for_it_nor_kept_away() -> None:
    plain = parse_workspace(tuning_manifest(), source="test")
    known = Tuned(training=training(plain, CLUSTER), generation=1)
    world = replace(CLUSTER, tuned=known)
    plan = make_plan(measured_on("s3://bucket/rows"), world)
    assert plan.tuned == known
    [told] = [check for check in plan.checks if check.name == "evaluation"]
    assert told.result == "warn"


def test_its_file_is_counted_from_where_the_workspace_s_is(tmp_path: Path) -> None:
    made = with_absolute_files(measured_on("file:evaluation.jsonl"), tmp_path)
    address = made.metadata.annotations[EVALUATION_DATA_ANNOTATION]
    assert address == (tmp_path / "evaluation.jsonl").as_uri()


async def test_its_server_is_asked_how_much_there_is() -> None:
    with running_web() as web:
        url = web.serve_bytes("/evaluation.jsonl", b"{}\n")
        limits = Settings(allow_local_addresses=True)
        found = await look(measured_on(url), HERE, limits, list_nodes=None, list_holders=None)
    assert found.evaluation == DatasetSeen(bytes=(3,))
