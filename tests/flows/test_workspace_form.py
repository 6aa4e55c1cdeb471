"""The form for tuning and serving: what it offers, and the Workspace that it stands for."""

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from flows.form import TrainingForm, WorkspaceForm, manifests_of
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.image_reference import parse_push_reference
from tasks.contract.retuning import parse_schedule
from tasks.contract.training_config import parse_training_config
from tasks.contract.workspace import Workspace
from tasks.settings import Settings
from tests.builders import tuning_manifest

DATA = "https://example.com/a.jsonl"


def schema(monkeypatch: pytest.MonkeyPatch, **installed: Any) -> dict[str, Any]:
    """The form in an installation with these settings."""
    monkeypatch.setattr("flows.form.settings", lambda: Settings(**installed))
    return WorkspaceForm.model_json_schema()


def written(**fields: Any) -> Workspace:
    return manifests_of(WorkspaceForm(**{"dataset": DATA} | fields)).workspace


def refusal(**fields: Any) -> str:
    with pytest.raises(InvalidWorkspace) as refused:
        manifests_of(WorkspaceForm(**fields))
    return str(refused.value)


def test_one_machine_asks_for_no_machine_and_a_cluster_for_no_push(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = schema(monkeypatch)["properties"]
    made = schema(monkeypatch, platform="kubernetes", provisioner="aks")["properties"]
    own = schema(monkeypatch, platform="kubernetes", provisioner="byo")["properties"]
    assert "push" in here
    assert not {"namespace", "instance_type", "node_label", "model_secret"} & {*here}
    assert "instance_type" in made
    assert not {"push", "node_label"} & {*made}
    assert "node_label" in own
    assert not {"push", "instance_type"} & {*own}


def test_machines_are_offered_with_their_gpus_and_price_and_only_those_that_can_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = schema(monkeypatch, platform="kubernetes", provisioner="aks")["properties"]
    offered = fields["instance_type"]["enum"]
    assert "Standard_NC24ads_A100_v4 (1 x A100 80 GiB, $3.67 an hour)" in offered
    assert all(each.startswith("Standard_") for each in offered)


def test_only_models_that_can_be_tuned_are_offered_and_the_first_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    field = schema(monkeypatch)["properties"]["model"]
    assert field["default"] == field["enum"][0] == WorkspaceForm().model
    assert "llama-3.1-8b-instruct (8.0B, llama3.1, gated)" in field["enum"]
    assert not any(each.startswith("gpt-oss") for each in field["enum"])


def test_served_namespaces_are_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    served = ("team-a", "team-b")
    field = schema(monkeypatch, platform="kubernetes", namespaces=served)["properties"]["namespace"]
    assert (field["enum"], field["default"]) == ([*served], "team-a")


def test_what_is_needed_is_not_needed_beside_a_pasted_workspace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.utilities.schema_tools import validate

    form = schema(monkeypatch, platform="kubernetes", provisioner="aks")
    needed = {each.message.split("'")[1] for each in validate({"name": "a"}, form)}
    assert needed == {"dataset", "image", "push_secret", "instance_type"}
    assert validate({"name": "a", "whole_yaml": "kind: Workspace"}, form) == []


def test_every_field_has_a_title_and_help_and_keeps_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    form = schema(monkeypatch)
    for part in (form, form["$defs"]["TrainingForm"]):
        fields = part["properties"].values()
        assert [each["position"] for each in fields] == list(range(len(fields)))
        for each in fields:
            assert each["title"][0].isupper()
            assert each.get("description") or "$ref" in each


def test_the_training_that_stands_there_is_the_default_and_needs_no_config_map() -> None:
    default, form = parse_training_config(None, method="qlora"), TrainingForm()
    assert form.rank == default.lora_rank
    assert form.max_length == default.max_length
    assert form.learning_rate == default.training["learning_rate"]
    assert form.epochs == default.training["num_train_epochs"]
    assert manifests_of(WorkspaceForm(dataset=DATA)).config_maps == {}


def test_other_training_is_a_config_map_that_our_reader_takes() -> None:
    training = TrainingForm(epochs=3, learning_rate=1e-4, rank=16, max_length=512)
    made = manifests_of(WorkspaceForm(dataset=DATA, training=training))
    assert made.workspace.config_name == "my-model-training"
    text = made.config_maps["my-model-training"]["training_config.yaml"]
    read = parse_training_config(text, method="qlora")
    assert (read.lora_rank, read.max_length) == (16, 512)
    assert (read.training["num_train_epochs"], read.training["learning_rate"]) == (3, 1e-4)


def test_the_fields_become_the_workspace_that_a_person_would_have_written() -> None:
    made = written(
        namespace="team",
        hub_model="Qwen/Qwen3-0.6B",
        dataset=f"{DATA}\n  https://example.com/b.jsonl\n",
        instance_type="Standard_NC4as_T4_v3 (1 x T4 16 GiB, $0.53 an hour)",
        image="registry.example.com/a:1",
        push_secret="login",
        model_secret="hub",
        serve=False,
        schedule="6h",
    )
    assert made.tuning
    assert str(made) == "team/my-model"
    assert made.tuning.preset.name == "Qwen/Qwen3-0.6B"
    assert made.tuning.input.urls == [DATA, "https://example.com/b.jsonl"]
    assert made.resource.instance_type == "Standard_NC4as_T4_v3"
    assert made.resource.label_selector.match_labels == {"apps": "my-model"}
    assert set(made.secret_names) == {"login", "hub"}
    assert made.metadata.annotations == {
        "kaitoflow.io/retune-schedule": "6h",
        "kaito.sh/serve": "false",
    }


RIGHT = {
    "dataset": ("", DATA, f"{DATA}\n https://me:pass@example.com/b?c=d\n", "file:///home/me/a.csv"),
    "image": (
        "",
        "tuned",
        "me/tuned:1",
        "registry.example.com:5000/a/b_c:0.0.1-g2",
        "localhost/a:v1",
        "ME.azurecr.io/a-b.c__d:latest",
    ),
    "schedule": (
        "",
        "6h",
        " P1D ",
        "PT90M",
        "0 3 * * 1 Europe/Berlin",
        "*/15  9-17 1,15 jan-mar MON-fri",
        "0 0 1 1 * Etc/GMT+1",
    ),
    "push_secret": ("", "push", "my.push-1"),
}
WRONG = {
    "dataset": (
        "a.csv",
        "/home/me/a.csv",
        "s3://bucket/a.parquet",
        f"{DATA} b.csv",
        f"{DATA},{DATA}x y",
    ),
    "image": (
        "https://registry.example.com/a:1",
        "registry.example.com/A:1",
        "registry.example.com/a:",
        "a b",
        "registry.example.com/a@sha256:0",
        "<registry>/a:1",
    ),
    "schedule": ("weekly", "every day", "6 h", "0 3 * *", "0 3 * * 1 Europe/Berlin now", "@daily"),
    "push_secret": ("My Secret", "push!", "-push"),
}


@pytest.mark.parametrize("field", RIGHT)
def test_what_a_field_can_be_is_taken_and_what_it_cannot_is_refused_in_the_form(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    from prefect.utilities.schema_tools import validate

    form = schema(monkeypatch, platform="kubernetes", provisioner="byo")
    filled = {"dataset": DATA, "image": "r.example.com/a:1", "push_secret": "push"}
    for text in RIGHT[field]:
        assert getattr(WorkspaceForm(**{field: text}), field) == text
        assert validate(filled | {field: text}, form) == []
    for text in WRONG[field]:
        with pytest.raises(ValidationError, match=field):
            WorkspaceForm(**{field: text})
        [told] = validate(filled | {field: text}, form)
        assert "does not match" in told.message


def test_every_schedule_and_image_that_the_form_takes_is_one_that_our_readers_take() -> None:
    for text in filter(None, RIGHT["schedule"]):
        parse_schedule(text)
    for text in filter(None, RIGHT["image"]):
        parse_push_reference(text)


def test_nodes_of_ones_own_are_chosen_by_their_label() -> None:
    chosen = written(node_label="gpu=a100").resource
    assert (chosen.instance_type, chosen.label_selector.match_labels) == ("", {"gpu": "a100"})


def test_a_pasted_workspace_is_taken_as_it_is_with_its_config_maps() -> None:
    settings = {"kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"a": "b"}}
    text = yaml.safe_dump_all([tuning_manifest("pasted", config="s"), settings])
    made = manifests_of(WorkspaceForm(whole_yaml=text))
    assert (str(made.workspace), made.config_maps) == ("default/pasted", {"s": {"a": "b"}})


def test_a_form_is_not_filled_in_twice_and_takes_no_secret() -> None:
    text = yaml.safe_dump(tuning_manifest())
    assert "filled in beside it (dataset)" in refusal(whole_yaml=text, dataset=DATA)
    secret = {"kind": "Secret", "metadata": {"name": "push"}, "stringData": {"a": "hidden"}}
    told = refusal(whole_yaml=yaml.safe_dump_all([tuning_manifest(), secret]))
    assert "kept in Prefect's database" in told
    assert "hidden" not in told
