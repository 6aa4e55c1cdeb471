"""Reading a Workspace: what is understood, and what is refused with which words."""

import json
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


def test_a_redacted_workspace_keeps_its_words_and_none_of_its_secrets() -> None:
    url = "https://me:canary@host/a.jsonl?sv=1&sig=canary#x"
    manifest = tuning_manifest(input={"urls": [url]})
    manifest["metadata"]["annotations"] = {"kubectl.kubernetes.io/last": f'{{"urls": ["{url}"]}}'}
    workspace = parse_workspace(manifest, source="w.yaml")
    shown = workspace.redacted()
    assert "canary" not in shown.model_dump_json()
    assert shown.tuning
    assert shown.tuning.input.urls == ["https://***@host/a.jsonl?sv=1&sig=***#x"]
    assert shown.resource == workspace.resource
    assert shown.redacted() == shown


def test_without_secrets_nothing_is_redacted() -> None:
    workspace = parse_workspace(tuning_manifest(config="settings"), source="w.yaml")
    assert workspace.redacted() == workspace


def test_an_address_as_long_as_may_be_stays_within_the_rules_without_its_secret() -> None:
    url = "https://u@host/".ljust(2048, "a")
    workspace = parse_workspace(tuning_manifest(input={"urls": [url]}), source="w.yaml")
    shown = workspace.redacted().tuning
    assert shown
    assert [len(each) for each in shown.input.urls] == [2048]


PRESET: dict[str, Any] = {"name": "smollm2-135m-instruct"}


def served(**inference: Any) -> dict[str, Any]:
    return {"metadata": {"name": "s"}, "inference": {"preset": PRESET} | inference}


def adapter(name: str = "a", **source: Any) -> dict[str, Any]:
    return {"source": {"name": name, "image": "r/a:1"} | source}


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (served() | {"resource": {"count": 0}}, "resource.count: "),
        (
            tuning_manifest() | {"resource": {"partition": {"mode": "mig", "profile": "1g.5gb"}}},
            "partition is set; tuning needs whole GPUs; remove it",
        ),
        (tuning_manifest(input={"urls": ["h" * 2049]}), "tuning.input.urls.0: "),
        (tuning_manifest(input={"urls": [""]}), "tuning.input.urls.0: "),
        (tuning_manifest(input={"urls": ["u"] * 257}), "tuning.input.urls: "),
        (served(preset=None), "none of preset and template given"),
        (served(template={"spec": {}}), "both of preset and template given"),
        (served(adapters=[adapter(str(n)) for n in range(11)]), "11 adapters; serve at"),
        (
            served(adapters=[{"source": {"name": "a", "urls": ["u"]}}]),
            "source.urls given; an adapter comes from an",
        ),
        (served(adapters=[adapter(name="")]), "inference.adapters.0: '' is no DNS-1123 label"),
        (
            served() | {"apiVersion": "kaito.sh/v1alpha1", "resource": {"partition": {}}},
            "resource.partition",
        ),
        (
            served(preset=PRESET | {"accessMode": "private"}) | {"apiVersion": "kaito.sh/v1alpha1"},
            "accessMode private names an image of yours",
        ),
        (
            served(preset=PRESET | {"presetOptions": {"modelAccessSecret": "s"}})
            | {"apiVersion": "kaito.sh/v1alpha1"},
            "modelAccessSecret: no such field in v1alpha1; use kaito.sh/v1beta1",
        ),
        (served() | {"apiVersion": "v1"}, "apiVersion: 'v1' found; use 'kaito.sh/v1alpha1' or"),
        ({"inference": {"preset": PRESET}}, "metadata: missing"),
    ],
)
def test_each_rule_is_told_where_it_is_broken(manifest: dict[str, Any], words: str) -> None:
    assert words in refusal_of(manifest)


def test_what_is_just_within_the_rules_is_taken() -> None:
    most = served(adapters=[adapter(f"a{n}") for n in range(10)]) | {"resource": {"count": 2}}
    workspace = parse_workspace(most, source="w.yaml")
    assert workspace.inference
    assert len(workspace.inference.adapters) == 10
    parse_workspace(tuning_manifest(input={"urls": ["u"] * 256}), source="w.yaml")
    older = served(preset=PRESET | {"accessMode": "private", "presetOptions": {"image": "r/m:1"}})
    parse_workspace(older | {"apiVersion": "kaito.sh/v1alpha1"}, source="w.yaml")


def test_every_secret_that_is_named_is_found_once() -> None:
    tuned = tuning_manifest(
        preset=PRESET | {"presetOptions": {"modelAccessSecret": "hub"}},
        input={"image": "r/d:1", "imagePullSecrets": ["pull", "push"]},
    )
    assert parse_workspace(tuned, source="w").secret_names == ("pull", "push", "hub")
    adapters = [adapter(n, imagePullSecrets=[s]) for n, s in (("a", "one"), ("b", "one"))]
    assert parse_workspace(served(adapters=adapters), source="w").secret_names == ("one",)
    assert parse_workspace(served(), source="w").secret_names == ()


@pytest.mark.parametrize(("value", "is_served"), [("true", True), ("False", False), (None, True)])
def test_a_model_is_served_unless_an_annotation_says_no(
    value: str | None, *, is_served: bool
) -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaito.sh/serve": value} if value else {}
    assert parse_workspace(manifest, source="w").is_served is is_served


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{kind: ConfigMap, data: {a: b}}", "it has no metadata.name, or none that is text"),
        ("{kind: ConfigMap, metadata: {name: 5}}", "it has no metadata.name, or none that is"),
        ("{kind: ConfigMap, metadata: {name: x}, data: [a]}", "data must hold names, each with"),
        ("{kind: ConfigMap, metadata: {name: x}, data: {1: a}}", "the name 1 must be text"),
        ("{kind: ConfigMap, metadata: {name: x}, data: {a: 1}}", "a must be text; put it in quo"),
        ("{kind: ConfigMap, metadata: {name: x}, data: {a: {b: 1}}}", "a must be text; put | aft"),
        ("{kind: Secret, metadata: {name: x}, stringData: {a: 1}}", "a must be text"),
        (
            "{kind: Secret, metadata: {name: x}}\n---\n{kind: Secret, metadata: {name: x}}",
            "asked to read Secret x; it is there twice; keep one",
        ),
    ],
)
def test_an_object_beside_the_workspace_that_cannot_be_used_is_refused(
    document: str, words: str
) -> None:
    text = f"{json.dumps(tuning_manifest())}\n---\n{document}"
    with pytest.raises(InvalidWorkspace) as refused:
        parse_manifests(text, source="w.yaml")
    assert words in str(refused.value)


def test_an_object_without_data_is_an_empty_one() -> None:
    text = f"{json.dumps(tuning_manifest())}\n---\n{{kind: ConfigMap, metadata: {{name: x}}}}"
    assert parse_manifests(text, source="w.yaml").config_maps == {"x": {}}


def test_two_workspaces_in_one_file_are_refused() -> None:
    text = f"{json.dumps(tuning_manifest())}\n---\n{json.dumps(tuning_manifest('other'))}"
    with pytest.raises(InvalidWorkspace, match="found Workspace, Workspace; give a file with ex"):
        parse_manifests(text, source="w.yaml")
