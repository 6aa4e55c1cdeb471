"""Every word that a user can write is in the table, and none passes in silence."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from flows.watcher.settings import WatcherSettings
from flows.worker.settings import WorkerSettings
from tasks import resources
from tasks.contract import retuning
from tasks.contract import workspace as contract_workspace
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.row_words import MESSAGE_WORDS, ROW_WORDS
from tasks.contract.words import (
    Word,
    acted_on,
    acts_at_once,
    edited_annotations,
    expect_annotations,
    unknown_variables,
    without_effect,
    words,
)
from tasks.contract.workspace import Workspace, parse_manifests, parse_workspace
from tasks.dataset.pod import messages, shapes
from tasks.nodes import need, offers
from tasks.nodes.claims import node_claim
from tasks.platform import passed_on, tolerations
from tasks.platform.manifests import pod_template, serving
from tasks.settings import Settings
from tests.builders import tuning_manifest

ROOT = Path(__file__).parents[2]
CRD = yaml.safe_load((ROOT / "deployments/crds/kaito.sh_workspaces.yaml").read_text())
KAITO_FILES = [
    path
    for path in sorted((ROOT / "tests/kaito").glob("*.yaml"))
    if "kind: Workspace" in path.read_text()
]
OF_EVERY_OBJECT = {"apiVersion", "kind", "metadata.name"}

# Of pods and claims: programs of ours write and read them.
OF_OUR_OWN = {
    pod_template.CONFIG_DIGEST_ANNOTATION,
    pod_template.EVENT_NONCE_ANNOTATION,
    serving.SERVER_DIGEST_ANNOTATION,
    node_claim.SLOT_ANNOTATION,
    node_claim.WORKSPACE_UID_ANNOTATION,
}

# KAITO 0.12's and 0.13's, from its api/ and pkg/utils/consts.
KAITO_ANNOTATIONS = """
    kaito.sh/enablelb kaito.sh/runtime kaito.sh/bypass-resource-checks kaito.sh/node-image-family
    kaito.sh/node-class-name kaito.sh/disable-benchmark kaito.sh/performance-mode
    kaito.sh/use-local-weights kaito.sh/model-streaming kaito.sh/model-mirror-storage-class
    kaito.sh/streaming-service-account kaito.sh/enable-speculative-decoding kaito.sh/capacity-type
    kaito.sh/upgrade-start-time inference.kaito.sh/stream-datarefs-url
    inference.kaito.sh/stream-identity-client-id inference.kaito.sh/stream-source-type
    inference.kaito.sh/static-model-mirror workspace.kaito.io/hash workspace.kaito.io/revision
""".split()


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """The path of each field that a version of the CRD has."""
    if schema.get("type") == "array":
        yield from leaves(schema["items"], f"{path}[]")
    elif "properties" not in schema:
        yield path
    else:
        for name, each in schema["properties"].items():
            yield from leaves(each, f"{path}.{name}" if path else name)


def annotated(**annotations: str) -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = annotations
    return parse_workspace(manifest, source="test")


@pytest.mark.parametrize("version", CRD["spec"]["versions"], ids=lambda version: version["name"])
def test_each_field_of_the_crd_is_in_the_table(version: dict[str, Any]) -> None:
    schema = version["schema"]["openAPIV3Schema"]
    spec = {name: part for name, part in schema["properties"].items() if name != "status"}
    known = set(words("fields")) | OF_EVERY_OBJECT
    assert set(leaves({"properties": spec})) <= known


def test_no_field_is_in_the_table_that_the_crd_has_not() -> None:
    of_versions = [version["schema"]["openAPIV3Schema"] for version in CRD["spec"]["versions"]]
    assert set(words("fields")) <= {path for schema in of_versions for path in leaves(schema)}


def test_each_annotation_of_kaito_s_is_in_the_table() -> None:
    assert set(KAITO_ANNOTATIONS) <= set(words("annotations"))


def test_each_annotation_that_is_read_is_in_the_table() -> None:
    read = {
        value
        for module in (
            *(offers, pod_template, serving, passed_on, tolerations),
            *(contract_workspace, node_claim, need, retuning, resources),
        )
        for name, value in vars(module).items()
        if name.strip("_").endswith("_ANNOTATION")
    }
    assert len(read) > 11
    does = {name for name, word in words("annotations").items() if word.does}
    assert read - OF_OUR_OWN <= does


def test_of_each_annotation_that_does_something_it_is_said_when() -> None:
    for name, word in words("annotations").items():
        assert bool(word.acts) is bool(word.does), name


def test_the_readme_says_of_each_annotation_when_an_edit_takes_effect() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, word in words("annotations").items():
        if word.acts:
            rows = (line for line in readme.splitlines() if line.startswith("|"))
            row = next((line for line in rows if f"`{name}`" in line), "")
            assert row.endswith(f"| {word.acts} |"), name


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("kaitoflow.io/bad-rows-tolerance", "lots", "use a number from 0 to 1"),
        ("kaitoflow.io/bad-rows-tolerance", "-5", "use a number from 0 to 1"),
        ("kaitoflow.io/bad-rows-tolerance", "nan", "use a number from 0 to 1"),
        ("kaitoflow.io/bad-rows-tolerance", "1.5", "use a number from 0 to 1"),
        ("kaito.sh/serve", "no", 'use "true" or "false"'),
        ("kaito.sh/enablelb", "true", 'use "True" or "False"'),
        ("kaito.sh/node-image-family", "windows", 'use "ubuntu" or "azurelinux"'),
        ("kaito.sh/runtime", "tgi", 'use "transformers" or "vllm"'),
        ("kaitoflow.io/cpu", "many", "use a quantity such as 500m or 16Gi, from 10m to 1k"),
        ("kaitoflow.io/memory", "16", "from 64Mi to 64Ti"),
        ("kaitoflow.io/ephemeral-storage", "-1Gi", "from 64Mi to 64Ti"),
        ("kaitoflow.io/capacity-types", "sport", 'use "on-demand" or "spot", or several'),
        ("kaitoflow.io/capacity-types", " , ", 'use "on-demand" or "spot", or several'),
        ("kaitoflow.io/spot-max-price", "cheap", "use a number from 0.0001 to 10000"),
        ("kaitoflow.io/zones", "1;2", 'use a name such as "1", or several'),
        ("kaitoflow.io/instance-types", "A 100", "such as"),
        ("kaitoflow.io/priority-class", "High!", 'use a name such as "high-priority"'),
        ("kaitoflow.io/stoped", "", "write kaitoflow.io/stopped"),
        ("kaito.sh/enable-lb", "True", "write kaito.sh/enablelb"),
        ("workspace.kaito.io/nothing-like-it", "", "remove it"),
    ],
)
def test_an_annotation_without_meaning_is_refused(name: str, value: str, fix: str) -> None:
    with pytest.raises(InvalidWorkspace) as refusal:
        expect_annotations(annotated(**{name: value}))
    assert name in refusal.value.asked
    assert fix in refusal.value.fix


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kaitoflow.io/bad-rows-tolerance", "0"),
        ("kaitoflow.io/bad-rows-tolerance", "1"),
        ("kaitoflow.io/cpu", "1500m"),
        ("kaitoflow.io/memory", "16Gi"),
        ("kaitoflow.io/capacity-types", "spot, on-demand"),
        ("kaitoflow.io/zones", "eastus-1,eastus-2"),
        ("kaitoflow.io/priority-class", "gpu.high"),
        ("kaito.sh/serve", "false"),
        ("kaito.sh/bypass-resource-checks", "anything"),
        ("scaledobject.kaito.sh/threshold", "10"),
        ("example.com/kaito.sh", "mine"),
    ],
)
def test_what_has_a_meaning_or_is_somebody_else_s_passes(name: str, value: str) -> None:
    expect_annotations(annotated(**{name: value}))


def test_what_has_no_effect_is_told_with_the_reason() -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {"kaito.sh/disable-benchmark": "true"}
    manifest["metadata"]["labels"] = {"kaito.sh/upgrade-to-version": "0.13"}
    manifest["resource"]["preferredNodes"] = ["a", "b"]
    manifest["tuning"]["preset"]["accessMode"] = "private"
    told = [*without_effect(parse_workspace(manifest, source="test"))]
    assert [each.partition(": ")[0] for each in told] == [
        "resource.preferredNodes",
        "resource.preferredNodes",
        "tuning.preset.accessMode",
        "annotation kaito.sh/disable-benchmark",
        "label kaito.sh/upgrade-to-version",
    ]


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("kaitoflow.io/stopped", "it is an annotation's name"),
        ("kaito.sh/workspaces", "did you mean kaito.sh/workspace?"),
        ("kaitoflow.io/zzz", "there is no such word"),
    ],
)
def test_a_label_in_our_domains_that_means_nothing_is_told(label: str, told: str) -> None:
    manifest = tuning_manifest()
    manifest["metadata"]["labels"] = {label: "1", "example.com/mine": "1"}
    [said] = without_effect(parse_workspace(manifest, source="test"))
    assert said.startswith(f"label {label}: ")
    assert told in said


def test_what_is_of_tunings_is_told_of_one_that_only_serves() -> None:
    manifest = tuning_manifest()
    del manifest["tuning"]
    manifest["inference"] = {"preset": {"name": "smollm2-135m-instruct"}}
    manifest["metadata"]["annotations"] = {"kaitoflow.io/tune-while-serving": "pause"}
    told = [*without_effect(parse_workspace(manifest, source="test"))]
    assert told == ["annotation kaitoflow.io/tune-while-serving: nothing is tuned"]


def test_what_asks_for_nothing_is_not_told() -> None:
    manifest = tuning_manifest()
    manifest["tuning"]["preset"]["accessMode"] = "public"
    assert [*without_effect(parse_workspace(manifest, source="test"))] == []


@pytest.mark.parametrize("path", KAITO_FILES, ids=lambda path: path.stem)
def test_no_word_of_kaito_s_own_manifests_is_refused(path: Path) -> None:
    expect_annotations(parse_manifests(path.read_text(), source=path.name).workspace)


def test_each_setting_of_watcher_and_worker_is_in_the_table() -> None:
    of_the_watcher = {f"KAITOFLOW_{name.upper()}" for name in WatcherSettings.model_fields}
    of_the_worker = {f"KAITOFLOW_WORKER_{name.upper()}" for name in WorkerSettings.model_fields}
    assert of_the_watcher | of_the_worker <= set(words("environment"))


def test_a_variable_that_is_no_setting_is_told_with_a_near_one() -> None:
    given = ["KAITOFLOW_PLATFROM", "KAITOFLOW_HOME", "KAITOFLOW_LOG_LEVEL", "HOME"]
    assert [*unknown_variables(given, settings=Settings.model_fields)] == [
        "KAITOFLOW_PLATFROM: there is no such setting (did you mean KAITOFLOW_PLATFORM?)"
    ]


def keys_read_of(name: str, module: ModuleType) -> set[str]:
    """The literal keys that the readers of rows look up in a variable of this name."""
    found: set[ast.expr] = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=of), attr="get"), args=[key, *_]):
                found |= {key} if of == name else set()
            case ast.Subscript(value=ast.Name(id=of), slice=key):
                found |= {key} if of == name else set()
            case ast.Compare(left=key, comparators=[ast.Name(id=of)]):
                found |= {key} if of == name else set()
    return {key.value for key in found if isinstance(key, ast.Constant)}  # type: ignore[misc]


def test_each_key_of_a_message_that_is_read_is_in_the_table() -> None:
    read = keys_read_of("item", messages)
    assert {"content", "value", "tool_calls"} <= read <= set(MESSAGE_WORDS)


def test_each_column_of_a_row_that_is_read_is_in_the_table() -> None:
    read = keys_read_of("values", shapes) | keys_read_of("lowered", shapes)
    assert {"prompt", "completion", "text"} <= read
    assert read | shapes.LOOKED_AT <= set(ROW_WORDS)


def word(**row: Any) -> Word:
    return Word.model_validate({"does": "something"} | row)


@pytest.mark.parametrize(
    ("row", "taken", "refused", "expected"),
    [
        ({}, ["", "anything"], [], ""),
        ({"values": ["a", "b"]}, ["a", "b"], ["", "c", "a,b"], '"a" or "b"'),
        (
            {"values": ["a", "b"], "list": True},
            ["a", "a,b", "b, a,"],
            ["", ",", "a,c"],
            '"a" or "b", or several with commas between them',
        ),
        ({"from": 0, "to": 1}, ["0", "0.5", "1"], ["-0.1", "1.1", "x", "nan", ""], "a number from"),
        (
            {"from": "100m", "to": "2", "quantity": True},
            ["100m", "1500m", "2"],
            ["99m", "2001m", "2.1", "many"],
            "a quantity such as 500m or 16Gi, from 100m to 2",
        ),
        ({"pattern": "[a-z]+", "such_as": "high"}, ["low"], ["", "A", "a1"], 'such as "high"'),
    ],
)
def test_a_word_takes_what_it_says_it_takes_and_nothing_else(
    row: dict[str, Any], taken: list[str], refused: list[str], expected: str
) -> None:
    given = word(**row)
    assert [value for value in taken + refused if given.takes(value)] == taken
    assert expected in given.expected


@pytest.mark.parametrize("row", [{}, {"does": "a", "none": "b"}])
def test_a_word_either_does_something_or_says_why_not(row: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="a word either does something or has no effect"):
        Word.model_validate(row)


def test_what_a_run_acted_on_is_compared_by_name_and_value() -> None:
    before = acted_on(annotated(**{"kaito.sh/serve": "true", "kaitoflow.io/zones": "1"}))
    assert before == ["kaito.sh/serve=true", "kaitoflow.io/zones=1"]
    now = {"kaito.sh/serve": "false", "kaitoflow.io/zones": "1", "example.com/mine": "x"}
    assert edited_annotations(before, annotated(**now)) == ["kaito.sh/serve"]
    assert edited_annotations(before, annotated()) == ["kaito.sh/serve", "kaitoflow.io/zones"]
    stopped = {"kaito.sh/serve": "true", "kaitoflow.io/zones": "1", "kaitoflow.io/stopped": ""}
    assert edited_annotations(before, annotated(**stopped)) == []


def test_only_some_annotations_act_on_a_workspace_that_is_settled() -> None:
    assert acts_at_once("kaito.sh/serve")
    assert not acts_at_once("example.com/mine")
    assert not acts_at_once("kaitoflow.io/capacity-types")
