"""The Workspace, KAITO's custom resource (kaito.sh), and the objects that come with it in a file.

Structure and one-object rules only: what needs a look at the world (secrets, nodes, the dataset) is
checked by the run's first step. Field names are ours in Python and KAITO's camelCase in YAML.
"""

import difflib
from typing import Any, Literal, Self, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.strict_yaml import load_documents, problem_in
from tasks.contract.workspace_parts import (
    Adapter,
    DataDestination,
    DataSource,
    Inference,
    LabelSelector,
    ObjectMeta,
    Part,
    Partition,
    PresetOptions,
    PresetRef,
    Resource,
    Tuning,
)

__all__ = [
    "BAD_ROWS_ANNOTATION",
    "FINALIZER",
    "GROUP",
    "SERVE_ANNOTATION",
    "STOPPED_ANNOTATION",
    "TUNE_WHILE_SERVING_ANNOTATION",
    "Adapter",
    "DataDestination",
    "DataSource",
    "Inference",
    "LabelSelector",
    "Manifests",
    "ObjectMeta",
    "Partition",
    "PresetOptions",
    "PresetRef",
    "Resource",
    "TuneWhileServing",
    "Tuning",
    "Workspace",
    "parse_manifests",
    "parse_workspace",
]

GROUP = "kaito.sh"
FINALIZER = "workspace.finalizer.kaito.sh"
STOPPED_ANNOTATION = "kaitoflow.io/stopped"
SERVE_ANNOTATION = "kaito.sh/serve"
BAD_ROWS_ANNOTATION = "kaitoflow.io/bad-rows-tolerance"
TUNE_WHILE_SERVING_ANNOTATION = "kaitoflow.io/tune-while-serving"
TuneWhileServing = Literal["beside", "auto", "pause"]


class Workspace(Part):
    """One model to tune or to serve: the object a user applies, without its status."""

    api_version: Literal["kaito.sh/v1alpha1", "kaito.sh/v1beta1"] = "kaito.sh/v1beta1"
    kind: Literal["Workspace"] = "Workspace"
    metadata: ObjectMeta
    resource: Resource = Resource()
    tuning: Tuning | None = None
    inference: Inference | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_status(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if key != "status"}
        return given

    @model_validator(mode="after")
    def _one_purpose(self) -> Self:
        if (self.tuning is None) == (self.inference is None):
            found = "neither" if self.tuning is None else "both"
            raise ValueError(f"{found} of tuning and inference given; set exactly one")
        if self.tuning and self.resource.partition:
            raise ValueError("resource.partition is set; tuning needs whole GPUs; remove it")
        return self

    @model_validator(mode="after")
    def _of_its_version(self) -> Self:
        if self.api_version != "kaito.sh/v1alpha1":
            return self
        options = self.preset.preset_options if self.preset else PresetOptions()
        newer = {
            "partition": self.resource.partition,
            "modelAccessSecret": options.model_access_secret,
        }
        if unknown := [field for field, value in newer.items() if value is not None]:
            raise ValueError(f"{unknown[0]}: no such field in v1alpha1; use kaito.sh/v1beta1")
        if self.preset and self.preset.access_mode == "private" and not options.image:
            raise ValueError(
                "accessMode private names an image of yours; set presetOptions.image, or use public"
            )
        return self

    @property
    def preset(self) -> PresetRef | None:
        """The base model that is asked for; None for a pod template."""
        if self.tuning:
            return self.tuning.preset
        return self.inference.preset if self.inference else None

    @property
    def config_name(self) -> str | None:
        """The ConfigMap that the Workspace refers to."""
        if self.tuning:
            return self.tuning.config
        return self.inference.config if self.inference else None

    @property
    def push_secret(self) -> str:
        """The Secret with which the image is pushed; empty when none is named."""
        return (self.tuning.output.image_push_secret if self.tuning else None) or ""

    @property
    def secret_names(self) -> tuple[str, ...]:
        """Every Secret that is named, each once: of registries, and of the hub's token."""
        named: list[str] = []
        if self.tuning:
            named += [*self.tuning.input.image_pull_secrets]
            named += [self.push_secret]
        if self.inference:
            named += [s for a in self.inference.adapters for s in a.source.image_pull_secrets]
        if self.preset:
            named += [self.preset.preset_options.model_access_secret or ""]
        return tuple(dict.fromkeys(name for name in named if name))

    @property
    def is_served(self) -> bool:
        """Whether an inference server is wanted at the end."""
        return self.metadata.annotations.get(SERVE_ANNOTATION, "true").lower() != "false"

    @property
    def tune_while_serving(self) -> TuneWhileServing:
        """How one that is served is tuned again: beside its server, unless it says otherwise."""
        wish = self.metadata.annotations.get(TUNE_WHILE_SERVING_ANNOTATION)
        return cast("TuneWhileServing", wish) if wish in get_args(TuneWhileServing) else "beside"

    def of_generation(self, generation: int) -> Self:
        """The same, as if it were this generation of the object."""
        metadata = self.metadata.model_copy(update={"generation": generation})
        return self.model_copy(update={"metadata": metadata})

    def __str__(self) -> str:
        """`namespace/name`, as run names and messages show it."""
        return str(self.metadata)


class Manifests(BaseModel):
    """What one file holds: a Workspace, and the ConfigMaps and Secrets that it names."""

    model_config = ConfigDict(frozen=True)

    workspace: Workspace
    config_maps: dict[str, dict[str, str]] = {}
    secrets: dict[str, dict[str, Any]] = Field(default={}, repr=False)


def parse_manifests(text: str, *, source: str) -> Manifests:
    """The Workspace in a YAML text, with the ConfigMaps and Secrets beside it.

    Args: source: the file's name, for messages.
    Raises: InvalidWorkspace: unreadable YAML, no Workspace or several, or a rule broken.
    """
    documents = _documents(text, source=source)
    workspaces = [d for d in documents if d.get("kind") == "Workspace"]
    if len(workspaces) != 1:
        kinds = ", ".join(str(d.get("kind")) for d in documents) or "nothing"
        raise InvalidWorkspace(
            f"{source}: asked to run one object of kind Workspace",
            f"found {kinds}",
            "give a file with exactly one Workspace (kaito.sh/v1beta1)",
        )
    config_maps = _named(documents, "ConfigMap", source=source)
    secrets = _named(documents, "Secret", source=source)
    return Manifests(
        workspace=parse_workspace(workspaces[0], source=source),
        config_maps={n: each.get("data") or {} for n, each in config_maps.items()},
        secrets=secrets,
    )


def parse_workspace(manifest: dict[str, Any], *, source: str) -> Workspace:
    """The typed Workspace of a manifest.

    Raises: InvalidWorkspace: every broken rule, one a line, each with its field.
    """
    try:
        return Workspace.model_validate(manifest)
    except ValidationError as error:
        problems = "\n".join(f"  {_problem(e)}" for e in error.errors())
        raise InvalidWorkspace(
            f"{source}: asked to read a Workspace",
            f"found\n{problems}\n",
            "correct these fields (`kaitoflow plan FILE` checks without running)",
        ) from None


def _documents(text: str, *, source: str) -> list[dict[str, Any]]:
    try:
        documents = [d for d in load_documents(text) if d is not None]
    except yaml.YAMLError as error:
        raise InvalidWorkspace(
            f"{source}: asked to read YAML", f"found {problem_in(error)}", "correct the text"
        ) from None
    if not all(isinstance(d, dict) for d in documents):
        raise InvalidWorkspace(
            f"{source}: asked to read Kubernetes objects",
            "found plain text or a list",
            "each document needs apiVersion, kind and metadata",
        )
    return documents


def _named(documents: list[dict[str, Any]], kind: str, *, source: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for document in documents:
        if document.get("kind") != kind:
            continue
        metadata = document.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if not isinstance(name, str) or not name:
            raise InvalidWorkspace(
                f"{source}: asked to read a {kind}",
                "it has no metadata.name, or none that is text",
                "give it the name by which the Workspace calls it",
            )
        if name in found:
            raise InvalidWorkspace(
                f"{source}: asked to read {kind} {name}", "it is there twice", "keep one"
            )
        for field in ("data", "stringData"):
            _expect_texts(document.get(field), f"{source}: {kind} {name}", field=field)
        found[name] = document
    return found


def _expect_texts(data: Any, source: str, *, field: str) -> None:
    """Refuse what is no name with a text, as the API server would; a Secret is not shown."""
    if data is not None and not isinstance(data, dict):
        raise InvalidWorkspace(
            "", f"{source}: {field} must hold names, each with a text", f"indent them below {field}"
        )
    for name, value in (data or {}).items():
        fix = "put | after it" if isinstance(value, dict | list) else "put it in quotes"
        if not isinstance(name, str):
            raise InvalidWorkspace("", f"{source}: the name {name!r} must be text", fix)
        if not isinstance(value, str):
            raise InvalidWorkspace("", f"{source}: {name} must be text", fix)


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "no such field" + _did_you_mean(error["loc"])
    elif error["type"] == "missing":
        message = "missing"
    elif error["type"] == "literal_error":
        message = f"{error['input']!r} found; use {error['ctx']['expected']}"
    return f"{where}: {message}" if where else message


def _did_you_mean(location: tuple[str | int, ...]) -> str:
    known = {to_camel(f) for part in Part.__subclasses__() for f in part.model_fields}
    near = difflib.get_close_matches(str(location[-1]), sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
