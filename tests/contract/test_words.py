"""Every word that a user can write is in the table, and none passes in silence."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.watcher.settings import WatcherSettings
from flows.worker.settings import WorkerSettings
from tasks.contract import workspace as contract_workspace
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.row_words import MESSAGE_WORDS, ROW_WORDS
from tasks.contract.words import (
    expect_annotations,
    unknown_variables,
    without_effect,
    words,
)
from tasks.contract.workspace import Workspace, parse_manifests, parse_workspace
from tasks.dataset.pod import shapes
from tasks.nodes import need, offers
from tasks.nodes.claims import node_claim
from tasks.platform import manifests, tolerations
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
    manifests.EVENT_NONCE_ANNOTATION,
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
        for module in (offers, manifests, tolerations, contract_workspace, node_claim, need)
        for name, value in vars(module).items()
        if name.strip("_").endswith("_ANNOTATION")
    }
    assert len(read) > 11
    does = {name for name, word in words("annotations").items() if word.does}
    assert read - OF_OUR_OWN <= does


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
    manifest["metadata"]["annotations"] = {"kaito.sh/runtime": "vllm"}
    manifest["metadata"]["labels"] = {"kaito.sh/upgrade-to-version": "0.13"}
    manifest["resource"]["preferredNodes"] = ["a", "b"]
    manifest["tuning"]["preset"]["accessMode"] = "private"
    told = [*without_effect(parse_workspace(manifest, source="test"))]
    assert [each.partition(": ")[0] for each in told] == [
        "resource.preferredNodes",
        "resource.preferredNodes",
        "tuning.preset.accessMode",
        "annotation kaito.sh/runtime",
        "label kaito.sh/upgrade-to-version",
    ]


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


def keys_read_of(name: str) -> set[str]:
    """The literal keys that the readers of rows look up in a variable of this name."""
    found: set[ast.expr] = set()
    for node in ast.walk(ast.parse(inspect.getsource(shapes))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=of), attr="get"), args=[key, *_]):
                found |= {key} if of == name else set()
            case ast.Subscript(value=ast.Name(id=of), slice=key):
                found |= {key} if of == name else set()
            case ast.Compare(left=key, comparators=[ast.Name(id=of)]):
                found |= {key} if of == name else set()
    return {key.value for key in found if isinstance(key, ast.Constant)}  # type: ignore[misc]


def test_each_key_of_a_message_that_is_read_is_in_the_table() -> None:
    read = keys_read_of("item")
    assert {"role", "from", "content", "value", "tool_calls"} <= read <= set(MESSAGE_WORDS)


def test_each_column_of_a_row_that_is_read_is_in_the_table() -> None:
    read = keys_read_of("values") | keys_read_of("lowered") | {*shapes.REFUSED_KEYS}
    assert {"prompt", "completion", "text"} <= read
    assert read | shapes.KNOWN_COLUMNS <= set(ROW_WORDS) | set(MESSAGE_WORDS)
    assert set(ROW_WORDS) >= shapes.KNOWN_COLUMNS
