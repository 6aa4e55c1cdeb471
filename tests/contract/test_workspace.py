"""Reading a Workspace: what is understood, and what is refused with which words."""

from pathlib import Path
from typing import Any

import pytest

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.workspace import parse_manifests, parse_workspace
from tests.builders import tuning_manifest

KAITO = Path(__file__).parents[1] / "kaito"
IMAGE = {"image": "registry.example.com/a:1"}


def refusal_of(manifest: dict[str, Any]) -> str:
    with pytest.raises(InvalidWorkspace) as refused:
        parse_workspace(manifest, source="w.yaml")
    return str(refused.value)


def test_the_quick_start_is_read_field_by_field() -> None:
    workspace = parse_workspace(tuning_manifest(), source="w.yaml")
    assert workspace.tuning is not None
    assert workspace.tuning.preset.name == "smollm2-135m-instruct"
    assert workspace.tuning.output.image_push_secret == "push"
    assert workspace.resource.instance_type == "Standard_NC4as_T4_v3"
    assert str(workspace) == "default/tuned"


def test_the_method_may_be_written_in_any_case() -> None:
    workspace = parse_workspace(tuning_manifest(method="QLoRA"), source="w.yaml")
    assert workspace.tuning is not None
    assert workspace.tuning.method == "qlora"


def test_a_status_in_the_file_is_left_aside() -> None:
    parse_workspace(tuning_manifest() | {"status": {"state": "Ready"}}, source="w.yaml")


def test_config_maps_and_secrets_come_along() -> None:
    text = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: served}
inference: {preset: {name: smollm2-135m-instruct}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {a: b}}
---
{apiVersion: v1, kind: Secret, metadata: {name: push}, stringData: {x: y}}
"""
    manifests = parse_manifests(text, source="w.yaml")
    assert manifests.config_maps == {"settings": {"a": "b"}}
    assert list(manifests.secrets) == ["push"]


def test_secrets_do_not_show_when_manifests_are_printed() -> None:
    text = """
{apiVersion: kaito.sh/v1beta1, kind: Workspace, metadata: {name: s},
 inference: {preset: {name: smollm2-135m-instruct}}}
---
{apiVersion: v1, kind: Secret, metadata: {name: push}, stringData: {x: hunter2}}
"""
    assert "hunter2" not in repr(parse_manifests(text, source="w.yaml"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "qlra"}, "tuning.method: 'qlra' found; use 'lora' or 'qlora'"),
        ({"input": {}}, "tuning.input: none given; set exactly one of urls, image, volumeSource"),
        ({"input": {"urls": ["u"], "image": "i"}}, "tuning.input: urls and image given"),
        ({"output": IMAGE}, "tuning.output: image without imagePushSecret; name the"),
        ({"inputs": {}}, "tuning.inputs: no such field; did you mean input?"),
        ({"preset": None}, "tuning.preset"),
    ],
)
def test_a_broken_rule_is_told_with_its_field(changes: dict[str, Any], words: str) -> None:
    assert words in refusal_of(tuning_manifest(**changes))


def test_every_broken_rule_is_told_at_once() -> None:
    words = refusal_of(tuning_manifest("Upper_Case", method="x", input={}))
    assert "metadata.name" in words
    assert "tuning.method" in words
    assert "tuning.input" in words


def test_both_of_tuning_and_inference_are_refused() -> None:
    both = tuning_manifest() | {"inference": {"preset": {"name": "x"}}}
    assert "both of tuning and inference given; set exactly one" in refusal_of(both)


def test_neither_of_tuning_and_inference_is_refused() -> None:
    neither = {key: value for key, value in tuning_manifest().items() if key != "tuning"}
    assert "neither of tuning and inference given" in refusal_of(neither)


def test_an_adapter_strength_out_of_range_is_refused() -> None:
    adapter = {"source": {"name": "a", "image": "r/a:1"}, "strength": "1.5"}
    inference = {"preset": {"name": "x"}, "adapters": [adapter]}
    manifest = {"metadata": {"name": "s"}, "inference": inference}
    assert "'1.5' is no strength; use a number" in refusal_of(manifest)


def test_adapters_of_one_name_are_refused() -> None:
    adapter = {"source": {"name": "a", "image": "r/a:1"}}
    inference = {"preset": {"name": "x"}, "adapters": [adapter, adapter]}
    assert "adapter name a used twice" in refusal_of(
        {"metadata": {"name": "s"}, "inference": inference}
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "asked to read YAML; found line 1"),
        ("kind: Pod", "asked to run one object of kind Workspace; found Pod"),
        ("", "found nothing; give a file with exactly one Workspace"),
        ("just words", "found plain text or a list"),
    ],
)
def test_a_file_that_is_no_workspace_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidWorkspace, match="w.yaml") as refused:
        parse_manifests(text, source="w.yaml")
    assert words in str(refused.value)


KAITO_FILES = [path for path in sorted(KAITO.glob("*.yaml")) if "Workspace" in path.read_text()]


@pytest.mark.parametrize("path", KAITO_FILES, ids=lambda path: path.stem)
def test_a_workspace_as_kaito_s_users_write_it_is_understood(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    workspace = parse_manifests(written, source=path.name).workspace
    assert f"name: {workspace.metadata.name}\n" in written
    assert workspace.tuning or workspace.inference
