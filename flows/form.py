"""What a person decides who tunes and serves from Prefect's form, and the Workspace it stands for.

Titles and help are for somebody who has never seen the YAML; choices are those of the installation.
Prefect's server refuses what is out of bounds before a run begins.
"""

from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.retuning import RETUNE_SCHEDULE_ANNOTATION
from tasks.contract.training_config import ROOT
from tasks.contract.workspace import SERVE_ANNOTATION, Manifests, parse_manifests, parse_workspace
from tasks.presets import Preset
from tasks.presets import catalogue as models
from tasks.settings import Settings, settings
from tasks.skus import Sku
from tasks.skus import catalogue as machines
from tasks.skus.prices import PriceTable, price_table

_SOURCE = "the form"
_NAME = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_HUB_ID = "^([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)?$"
_LABEL = "^([A-Za-z0-9_./-]+=[A-Za-z0-9_.-]*)?$"
_OBJECT_NAME = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"
# What these let through is read, and told of in words, before anything is made; they keep out what
# can be none, where the form still is.
_DATASET = r"^\s*((https?|file)://\S+(\s+(https?|file)://\S+)*)?\s*$"
_PART = "[a-z0-9]+([._-]+[a-z0-9]+)*"
_IMAGE = rf"^(([A-Za-z0-9.-]+(:[0-9]+)?/)?{_PART}(/{_PART})*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?)?$"
_CRON = r"[0-9A-Za-z*/,-]+(\s+[0-9A-Za-z*/,-]+){4}(\s+[A-Za-z][A-Za-z0-9/_+-]*)?"
_SCHEDULE = rf"^\s*([0-9]+[smhdw]|P[0-9TWDHMS]+|{_CRON})?\s*$"
# Where nothing is pushed, an image needs a name alone, and no Secret is read.
_KEPT_AS = "registry.example.com/adapters/{name}:0.0.1"
_NO_SECRET = "none"  # noqa: S105  a name
_OF_A_CLUSTER = ("namespace", "instance_type", "node_label", "model_secret")
_NEEDED = "Needed, unless a whole Workspace is pasted below. "


def _in_order(schema: dict[str, Any]) -> None:
    """Keep the fields' order, which a database may forget."""
    for position, field in enumerate(schema["properties"].values()):
        field["position"] = position


class TrainingForm(BaseModel):
    """How long and how strongly the model learns; what stands here suits most data."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_in_order)

    epochs: float = Field(
        1, gt=0, le=100, title="Epochs", description="How often each row is learned from."
    )
    learning_rate: float = Field(
        2e-4,
        gt=0,
        le=0.01,
        title="Learning rate",
        description="How far each step goes. More learns faster, and forgets more of what it knew.",
    )
    rank: int = Field(
        8,
        ge=1,
        le=256,
        title="Rank",
        description="How much the adapter can hold. Raise it where there is much to learn.",
    )
    max_length: int = Field(
        1024,
        ge=64,
        le=131072,
        title="Longest row",
        description="Tokens after which a row is cut off. More takes more memory.",
    )

    @property
    def sections(self) -> dict[str, Any]:
        """What differs from the defaults, as training_config.yaml has it."""
        given = self.model_dump(exclude_defaults=True)
        lora = {"r": given.pop("rank")} if "rank" in given else {}
        if "epochs" in given:
            given["num_train_epochs"] = given.pop("epochs")
        sections = {"LoraConfig": lora, "TrainingArguments": given}
        return {name: each for name, each in sections.items() if each}


def _suit_installation(schema: dict[str, Any]) -> None:
    """Offer what this installation has to choose from, and ask for nothing without use in it."""
    fields, here = schema["properties"], settings()
    for name in _without_use(here):
        del fields[name]
    fields["model"]["enum"] = [model_choice(e) for e in models().values() if _is_tunable(e)]
    if "instance_type" in fields:
        prices = price_table(here.price_table)
        offered = [sku for sku in machines().values() if _is_offered(sku, here)]
        fields["instance_type"]["enum"] = [machine_choice(sku, prices) for sku in offered]
    if "namespace" in fields and here.namespaces:
        fields["namespace"] |= {"enum": [*here.namespaces], "default": here.namespaces[0]}
    needed = [name for name in ("dataset", *_needed(here)) if name in fields]
    is_pasted = {"properties": {"whole_yaml": {"minLength": 1}}, "required": ["whole_yaml"]}
    schema |= {"if": is_pasted, "else": {"required": needed}}
    for field in fields.values():
        if field.get("default") == "":  # else the form would send it, as if it had been given
            del field["default"]
    _in_order(schema)


class WorkspaceForm(BaseModel):
    """A model, your data, and what is to become of both."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_suit_installation)

    name: str = Field(
        "my-model",
        pattern=_NAME,
        title="Name",
        description="What you call it from now on: small letters, digits and '-'.",
    )
    namespace: str = Field(
        "default", title="Namespace", description="The namespace of the cluster in which it runs."
    )
    model: str = Field(
        "smollm2-135m-instruct (0.1B, apache-2.0)",
        title="Model",
        description="What learns from your data.",
    )
    hub_model: str = Field(
        "",
        pattern=_HUB_ID,
        title="Another model of the Hugging Face hub",
        description="As owner/name. It takes the place of the choice above.",
    )
    dataset: str = Field(
        "",
        pattern=_DATASET,
        title="Dataset",
        description=f"{_NEEDED}The addresses of its files, one a line: https://..., or file:///... "
        "where this server runs on your own machine. Parquet, JSON, CSV, Arrow or text; its rows "
        "are messages, prompt and completion, question and answer, or text.",
    )
    method: Literal["qlora", "lora"] = Field(
        "qlora",
        title="Method",
        description="qlora holds the model in 4 bits and needs least memory, lora holds it whole.",
    )
    instance_type: str = Field(
        "",
        title="Machine",
        description=f"{_NEEDED}It is made for you, and paid for until the Workspace is deleted.",
    )
    node_label: str = Field(
        "",
        pattern=_LABEL,
        title="Nodes",
        description="A label, as key=value, of the nodes that will do. Empty: any node.",
    )
    image: str = Field(
        "",
        pattern=_IMAGE,
        title="Image",
        description="The name under which the result is kept: registry.example.com/name:tag.",
    )
    push_secret: str = Field(
        "",
        pattern=_OBJECT_NAME,
        title="Secret of the registry",
        description="The name of the Secret with the login to push with.",
    )
    model_secret: str = Field(
        "",
        pattern=_OBJECT_NAME,
        title="Secret of the model",
        description="The name of the Secret whose HF_TOKEN may read a gated model.",
    )
    training: TrainingForm = Field(TrainingForm(), title="Training")
    serve: bool = Field(
        default=True, title="Serve", description="Whether it answers requests once it is tuned."
    )
    schedule: str = Field(
        "",
        pattern=_SCHEDULE,
        title="Tune again",
        description="When to look for new data: a time of cron, as 0 3 * * 1 Europe/Berlin, or how "
        "often, as 6h. Empty: never by itself.",
    )
    whole_yaml: str = Field(
        "",
        title="Or a whole Workspace",
        description="Paste its YAML, with its ConfigMaps. It takes the place of all that stands "
        "above, which is then left as it was.",
    )
    push: bool = Field(
        default=False,
        title="Push the image",
        description="Whether it is sent to its registry too, instead of only being kept here.",
    )

    def __str__(self) -> str:
        """`namespace/name`, as run names show it until a pasted Workspace is read."""
        return f"{self.namespace}/{self.name}"


def manifests_of(form: WorkspaceForm) -> Manifests:
    """The objects that a form stands for.

    Raises: InvalidWorkspace: a rule is broken, or it is filled in twice.
    """
    if not form.whole_yaml:
        return _written(form)
    if beside := sorted(form.model_dump(exclude_defaults=True, exclude={"whole_yaml", "push"})):
        raise InvalidWorkspace(
            f"{_SOURCE} has a whole Workspace",
            f"it is filled in beside it ({', '.join(beside)})",
            "empty one of the two",
        )
    manifests = parse_manifests(form.whole_yaml, source=_SOURCE)
    if manifests.secrets:
        raise InvalidWorkspace(
            f"{_SOURCE} has a whole Workspace, with Secret {', '.join(sorted(manifests.secrets))}",
            "what is typed here is kept in Prefect's database",
            "make the Secret by kubectl, or by kaitoflow run FILE, and name it here",
        )
    return manifests


def _written(form: WorkspaceForm) -> Manifests:
    """The Workspace that the fields say, with a ConfigMap for settings that are no defaults."""
    name = form.name
    config_maps = {}
    tuning: dict[str, Any] = {
        "preset": {"name": form.hub_model or _first_word(form.model)},
        "method": form.method,
        "input": {"urls": form.dataset.split()},
        "output": {
            "image": form.image or _KEPT_AS.format(name=name),
            "imagePushSecret": form.push_secret or _NO_SECRET,
        },
    }
    if form.model_secret:
        tuning["preset"]["presetOptions"] = {"modelAccessSecret": form.model_secret}
    if form.training.sections:
        tuning["config"] = f"{name}-training"
        text = yaml.safe_dump({ROOT: form.training.sections}, sort_keys=False)
        config_maps = {tuning["config"]: {"training_config.yaml": text}}
    annotations = {RETUNE_SCHEDULE_ANNOTATION: form.schedule} if form.schedule else {}
    if not form.serve:
        annotations[SERVE_ANNOTATION] = "false"
    manifest = {
        "metadata": {"name": name, "namespace": form.namespace, "annotations": annotations},
        "resource": _resource(form),
        "tuning": tuning,
    }
    return Manifests(workspace=parse_workspace(manifest, source=_SOURCE), config_maps=config_maps)


def _resource(form: WorkspaceForm) -> dict[str, Any]:
    """The nodes: those with a label, or one that is made and labelled with the Workspace's name."""
    key, _, value = form.node_label.partition("=")
    labels = {key: value} if key else {}
    if form.instance_type:
        labels = {"apps": form.name}
    machine = _first_word(form.instance_type)
    return {"instanceType": machine, "labelSelector": {"matchLabels": labels}}


def model_choice(preset: Preset) -> str:
    """A model as the form offers it; its name is the first word."""
    size = f"{preset.parameters / 1e9:.1f}B" if preset.parameters else "size unknown"
    gated = ", gated" if preset.gated else ""
    return f"{preset.name} ({size}, {preset.licence or 'licence unknown'}{gated})"


def machine_choice(sku: Sku, prices: PriceTable) -> str:
    """A machine as the form offers it; its name is the first word."""
    price = prices.price_per_hour(sku.name, "on-demand")
    return f"{sku.name} ({sku}, {f'${price:.2f} an hour' if price else 'price unknown'})"


def _first_word(choice: str) -> str:
    return choice.partition(" ")[0]


def _is_tunable(preset: Preset) -> bool:
    return not all(preset.why_not_tuned(method) for method in ("qlora", "lora"))


def _is_offered(sku: Sku, here: Settings) -> bool:
    is_sold = here.provisioner != "aks" or sku.cloud == "azure"
    return is_sold and sku.runs_our_images and not sku.is_retired


def _without_use(here: Settings) -> tuple[str, ...]:
    """Fields that mean nothing in this installation."""
    if here.platform == "local":
        return _OF_A_CLUSTER
    return ("push", "node_label" if here.makes_nodes else "instance_type")


def _needed(here: Settings) -> tuple[str, ...]:
    if here.platform == "local":
        return ()
    return ("image", "push_secret", "instance_type")
