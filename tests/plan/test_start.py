"""What a tuning goes on from is looked at in the plan, as far as it can be."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.artifacts import Check, PublishedImage, Tuned
from tasks.contract.continuing import CONTINUE_ANNOTATION
from tasks.contract.errors import (
    AddressForbidden,
    KaitoflowError,
    RegistryDenied,
    RegistryUnavailable,
)
from tasks.contract.image_annotations import BASE_NAME, LORA_SHAPE
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings
from tasks.platform.base import World
from tests.builders import tuning_manifest

HERE = World(config_maps={}, has_secret=lambda _name: True)
CLUSTER = replace(HERE, is_cluster=True, push=True)
IMAGE = "r.io/team/a:1"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": SMOLLM2, "r": 16, "lora_alpha": 32}


def going_on(start: str, **changes: Any) -> Workspace:
    manifest = tuning_manifest(**changes)
    manifest["metadata"]["annotations"] = {CONTINUE_ANNOTATION: start}
    return parse_workspace(manifest, source="test")


def line(workspace: Workspace, world: World, findings: Findings | None = None) -> Check:
    plan = make_plan(workspace, world, findings or Findings())
    return next(check for check in plan.checks if check.name == "start")


def folder(tmp_path: Path, **changes: Any) -> str:
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER | changes))
    return str(tmp_path)


def test_a_folder_of_this_machine_is_read(tmp_path: Path) -> None:
    name = folder(tmp_path)
    told = line(going_on(name), HERE)
    assert (told.result, told.detail) == ("ok", f"{name}, rank 16, over {SMOLLM2}")


@pytest.mark.parametrize(
    "fault", [{"preset": {"name": "no-such-model"}}, {"config": "no-such-settings"}], ids=str
)
def test_what_other_lines_refuse_is_not_told_once_more(
    fault: dict[str, Any], tmp_path: Path
) -> None:
    name = folder(tmp_path)
    told = line(going_on(name, **fault), HERE)
    assert (told.result, told.detail) == ("ok", name)


def test_a_folder_of_another_base_is_refused(tmp_path: Path) -> None:
    told = line(going_on(folder(tmp_path, base_model_name_or_path="owner/other")), HERE)
    assert (told.result, told.reason) == ("fail", "AdapterMismatch")
    assert "made for owner/other" in told.detail


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    assert line(going_on(str(tmp_path)), HERE).reason == "AdapterMismatch"


def test_a_pod_has_no_folders_of_a_user_s() -> None:
    told = line(going_on("/home/me/adapter"), CLUSTER)
    assert (told.result, told.fix) == ("fail", "publish the adapter and name its image")


def test_an_image_is_judged_by_what_it_says_of_itself() -> None:
    ours = {LORA_SHAPE: json.dumps({"r": 16, "lora_alpha": 32}), BASE_NAME: SMOLLM2}
    assert line(going_on(IMAGE), CLUSTER, Findings(start=ours)).detail == (
        f"{IMAGE}, rank 16, over {SMOLLM2}"
    )
    other = line(going_on(IMAGE), CLUSTER, Findings(start=ours | {BASE_NAME: "owner/other"}))
    assert other.reason == "AdapterMismatch"


def test_an_image_of_others_is_checked_in_its_pod() -> None:
    told = line(going_on(IMAGE), CLUSTER, Findings(start={}))
    assert told.detail == f"{IMAGE}, whose rank and layers are checked before it is trained on"


def test_a_registry_that_is_silent_is_told_and_stops_nothing() -> None:
    silent = RegistryUnavailable("r.io was asked", "there was no answer", "try again")
    told = line(going_on(IMAGE), CLUSTER, Findings(start=silent))
    assert (told.result, told.detail) == (
        "warn",
        f"{IMAGE}; r.io was asked; there was no answer",
    )


@pytest.mark.parametrize("refusal", [AddressForbidden, RegistryDenied])
def test_an_image_that_only_pods_may_read_is_left_to_its_pod(
    refusal: type[KaitoflowError],
) -> None:
    told = line(going_on(IMAGE), CLUSTER, Findings(start=refusal("r.io was asked", "no", "-")))
    assert (told.result, told.detail) == (
        "warn",
        f"{IMAGE}; r.io was asked, and could not be read from here",
    )


def test_where_nothing_serves_yet_the_tuning_begins_anew() -> None:
    told = line(going_on("serving"), CLUSTER)
    assert (told.result, told.detail) == ("ok", "nothing serves yet: it begins anew")


def test_what_serves_out_of_a_volume_cannot_be_gone_on_from() -> None:
    of_a_volume = replace(CLUSTER, tuned=Tuned(training="0", generation=1))
    assert "it is in a volume" in line(going_on("serving"), of_a_volume).detail


def test_another_start_makes_another_training() -> None:
    image = PublishedImage(reference=IMAGE, digest="sha256:0")
    world = replace(CLUSTER, tuned=Tuned(training="0", generation=1, image=image))
    plans = [make_plan(going_on(start), world) for start in ("serving", IMAGE, "r.io/b:1")]
    assert len({plan.training for plan in plans}) == 3
