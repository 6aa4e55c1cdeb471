"""What was tuned from the very same is not tuned again, and the plan says so."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.artifacts import PublishedImage, Tuned
from tasks.contract.errors import DatasetUnreachable, RegistryUnavailable
from tasks.contract.training_digest import training_digest
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings
from tasks.platform.base import World
from tasks.platform.outputs import Rivals
from tasks.presets import find_preset
from tests.builders import tuning_manifest, tuning_workspace

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
DIGEST = "sha256:" + "a" * 64
SILENT = RegistryUnavailable("the registry was asked", "there was no answer", "try again")
CLUSTER = World(config_maps={}, has_secret=lambda _name: True, is_cluster=True, push=True)


def kept(generation: int) -> Workspace:
    """The Workspace as a platform keeps it."""
    manifest = tuning_manifest()
    manifest["metadata"] |= {"uid": "1", "generation": generation}
    return parse_workspace(manifest, source="test")


def after_tuning(workspace: Workspace, **changes: Any) -> World:
    """The world in which this Workspace was tuned in generation 3."""
    image = PublishedImage(reference="registry.example.com/a:1", digest=DIGEST, pushed=True)
    known = Tuned(training=make_plan(workspace, CLUSTER).training, generation=3, image=image)
    return replace(CLUSTER, tuned=known.model_copy(update=changes))


def test_the_very_same_is_not_tuned_again() -> None:
    world = after_tuning(tuning_workspace())
    plan = make_plan(tuning_workspace(), world, Findings(has_tuned_image=True))
    assert plan.tuned == world.tuned
    [line] = [check.detail for check in plan.checks if check.name == "tuning"]
    assert line == "tuned in generation 3; nothing it depends on has changed"


def test_what_is_tuned_needs_its_dataset_and_its_time_no_more() -> None:
    gone = DatasetUnreachable("the dataset was asked for", "it is gone", "correct it")
    findings = Findings(has_tuned_image=True, dataset=gone)
    plan = make_plan(tuning_workspace(), after_tuning(tuning_workspace()), findings)
    assert plan.refused == []
    assert not {"dataset", "image", "parameters", "time"} & {check.name for check in plan.checks}


def test_what_was_tuned_before_the_catalogue_named_commits_is_the_very_same() -> None:
    workspace = tuning_workspace()
    formerly = training_digest(workspace, base_model=f"{SMOLLM2}@main", config_text=None)
    world = after_tuning(workspace, training=formerly)
    plan = make_plan(workspace, world, Findings(has_tuned_image=True))
    assert (plan.tuned, plan.training) == (world.tuned, formerly)
    pinned = tuning_workspace(preset={"name": f"{SMOLLM2}@{find_preset(SMOLLM2).revision}"})
    assert make_plan(pinned, world).tuned is None


def test_another_dataset_is_tuned() -> None:
    edited = tuning_workspace(input={"urls": ["https://example.com/new.parquet"]})
    assert make_plan(edited, after_tuning(tuning_workspace())).tuned is None


def test_what_was_tuned_before_something_else_was_comes_back() -> None:
    first = after_tuning(tuning_workspace()).tuned
    edited = tuning_workspace(input={"urls": ["https://example.com/new.parquet"]})
    later = after_tuning(edited, generation=4)
    assert first
    assert later.tuned
    world = replace(later, tuned_before=[later.tuned, first])
    plan = make_plan(kept(5), world)
    assert (plan.tuned, plan.comes_back, plan.refused) == (first, True, [])
    lines = {check.name: check.detail for check in plan.checks}
    assert lines["tuning"] == "tuned in generation 3; nothing it depends on has changed"
    assert "registry.example.com" in lines["image"]  # whose tag moves
    assert "dataset" not in lines
    plan = make_plan(edited, world)
    assert (plan.tuned, plan.comes_back) == (later.tuned, False)


def test_an_image_that_comes_back_takes_nobody_else_s_tag() -> None:
    first = after_tuning(tuning_workspace()).tuned
    assert first
    world = replace(CLUSTER, tuned_before=[first], rivals=Rivals(image_is_of="team/other"))
    assert [check.reason for check in make_plan(kept(5), world).refused] == ["TagTaken"]


def test_an_image_that_is_gone_is_made_again() -> None:
    world = after_tuning(tuning_workspace())
    assert make_plan(tuning_workspace(), world, Findings(has_tuned_image=False)).tuned is None


def test_a_registry_that_does_not_answer_has_not_lost_the_image_and_it_is_told() -> None:
    world = after_tuning(tuning_workspace())
    plan = make_plan(tuning_workspace(), world, Findings(has_tuned_image=SILENT))
    assert plan.tuned == world.tuned
    assert any("whether the tuned image is still there" in each for each in plan.unchecked)


def test_a_generation_is_tuned_once_also_when_what_it_depends_on_is_edited_beside_it() -> None:
    known = after_tuning(tuning_workspace(), training="other", kept_for=5)
    for generation in (3, 5):
        plan = make_plan(kept(generation), known)
        [line] = [check.detail for check in plan.checks if check.name == "tuning"]
        assert "its ConfigMap or an annotation has changed since" in line
    assert make_plan(kept(6), known).tuned is None


def test_a_file_is_no_generation_yet_and_is_judged_by_what_it_says() -> None:
    known = after_tuning(tuning_workspace(), generation=1, kept_for=1)
    edited = tuning_workspace(input={"urls": ["https://example.com/new.parquet"]})
    assert make_plan(tuning_workspace(), known).tuned == known.tuned
    assert make_plan(edited, known).tuned is None


@pytest.mark.parametrize("config", [None, "settings"])
def test_what_cannot_be_known_is_tuned(config: str | None) -> None:
    preset = {"name": "no-such-model"} if config is None else {"name": "smollm2-135m-instruct"}
    workspace = tuning_workspace(config=config, preset=preset)
    plan = make_plan(workspace, after_tuning(workspace))
    assert (plan.training, plan.tuned) == ("", None)
