"""What a training depends on changes its digest, and nothing else does."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from tasks.contract.training_digest import training_digest
from tasks.contract.workspace import (
    DataDestination,
    DataSource,
    PresetOptions,
    PresetRef,
    Tuning,
    Workspace,
    parse_workspace,
)
from tests.builders import tuning_manifest, tuning_workspace

# Each field of the tuning spec with another value; a test fails where one is missing.
CHANGES: dict[str, dict[str, Any]] = {
    "preset.name": {"preset": {"name": "phi-4-mini-instruct"}},
    "preset.access_mode": {
        "preset": {"name": "smollm2-135m-instruct", "accessMode": "private"},
    },
    "preset.preset_options.image": {
        "preset": {"name": "smollm2-135m-instruct", "presetOptions": {"image": "r/a:1"}},
    },
    "preset.preset_options.image_pull_secrets": {
        "preset": {"name": "smollm2-135m-instruct", "presetOptions": {"imagePullSecrets": ["a"]}},
    },
    "preset.preset_options.model_access_secret": {
        "preset": {"name": "smollm2-135m-instruct", "presetOptions": {"modelAccessSecret": "a"}},
    },
    "method": {"method": "lora"},
    "config": {"config": "settings"},
    "input.name": {"input": {"name": "rows", "urls": ["https://example.com/data.parquet"]}},
    "input.urls": {"input": {"urls": ["https://example.com/other.parquet"]}},
    "input.volume_source": {"input": {"volumeSource": {"persistentVolumeClaim": {}}}},
    "input.image": {"input": {"image": "r/data:1"}},
    "input.image_pull_secrets": {"input": {"image": "r/data:1", "imagePullSecrets": ["a"]}},
    "output.volume_source": {"output": {"volumeSource": {"persistentVolumeClaim": {}}}},
    "output.image": {"output": {"image": "registry.example.com/b:1", "imagePushSecret": "push"}},
    "output.image_push_secret": {
        "output": {"image": "registry.example.com/adapters/tuned:1", "imagePushSecret": "other"}
    },
}
PARTS: dict[str, type[BaseModel]] = {
    "preset": PresetRef,
    "preset_options": PresetOptions,
    "input": DataSource,
    "output": DataDestination,
}


def digest(
    workspace: Workspace, *, base_model: str = "owner/model@main", config_text: str | None = None
) -> str:
    return training_digest(workspace, base_model=base_model, config_text=config_text)


def fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name in model.model_fields:
        part = PARTS.get(name)
        yield from fields(part, f"{path}{name}.") if part else [f"{path}{name}"]


def with_meta(**meta: Any) -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"] |= meta
    return parse_workspace(manifest, source="test")


def test_each_field_of_the_tuning_spec_has_a_change_here() -> None:
    assert set(fields(Tuning)) == set(CHANGES)


@pytest.mark.parametrize("field", CHANGES)
def test_each_field_of_the_tuning_spec_changes_it(field: str) -> None:
    assert digest(tuning_workspace(**CHANGES[field])) != digest(tuning_workspace())


def test_each_change_has_a_digest_of_its_own() -> None:
    assert len({digest(tuning_workspace(**change)) for change in CHANGES.values()}) == len(CHANGES)


def test_another_revision_of_the_base_model_changes_it() -> None:
    workspace = tuning_workspace()
    assert digest(workspace, base_model="owner/model@v2") != digest(workspace)


def test_other_parameters_in_the_config_map_change_it() -> None:
    workspace = tuning_workspace()
    texts = (None, "", "training_config: {}")
    assert len({digest(workspace, config_text=text) for text in texts}) == len(texts)


def test_the_rows_that_may_be_left_out_change_it() -> None:
    tolerant = with_meta(annotations={"kaitoflow.io/bad-rows-tolerance": "0.1"})
    assert digest(tolerant) != digest(tuning_workspace())


@pytest.mark.parametrize(
    "meta",
    [
        {"labels": {"team": "a"}},
        {"uid": "1", "generation": 7},
        {"annotations": {"kaito.sh/serve": "false"}},
        {"annotations": {"kaito.sh/enablelb": "True"}},
        {"annotations": {"kaitoflow.io/instance-types": "Standard_NC24ads_A100_v4"}},
        {"annotations": {"kaitoflow.io/tolerations": "team=ml"}},
        {"annotations": {"example.com/owner": "me"}},
    ],
    ids=str,
)
def test_labels_and_annotations_that_act_elsewhere_do_not_change_it(meta: dict[str, Any]) -> None:
    assert digest(with_meta(**meta)) == digest(tuning_workspace())


def test_the_machine_does_not_change_it() -> None:
    manifest = tuning_manifest()
    manifest["resource"] = {
        "instanceType": "Standard_NC24ads_A100_v4",
        "labelSelector": {"matchLabels": {"apps": "tuning"}},
        "preferredNodes": ["a"],
    }
    assert digest(parse_workspace(manifest, source="test")) == digest(tuning_workspace())


def test_how_a_method_is_spelt_does_not_change_it() -> None:
    assert digest(tuning_workspace(method="QLoRA")) == digest(tuning_workspace(method="qlora"))


def test_what_tunes_nothing_has_none() -> None:
    manifest = tuning_manifest()
    del manifest["tuning"]
    manifest["inference"] = {"preset": {"name": "smollm2-135m-instruct"}}
    assert digest(parse_workspace(manifest, source="test")) == ""
