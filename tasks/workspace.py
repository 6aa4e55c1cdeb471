"""The Workspace, KAITO's custom resource (kaito.sh), and the objects that come with it in a file.

Structure and one-object rules only: what needs a look at the world (secrets, nodes, the dataset) is
checked by the run's first step. Field names are ours in Python and KAITO's camelCase in YAML.
"""

import difflib
import re
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from tasks.errors import InvalidWorkspace
from tasks.resource import Part, Resource

GROUP = "kaito.sh"
FINALIZER = "workspace.finalizer.kaito.sh"
STOPPED_ANNOTATION = "kaitoflow.io/stopped"
SERVE_ANNOTATION = "kaito.sh/serve"
BAD_ROWS_ANNOTATION = "kaitoflow.io/bad-rows-tolerance"
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_STRENGTH = re.compile(r"([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]{1,2})?")
_MAX_ADAPTERS = 10
_MAX_URLS = 256
_Url = Annotated[str, Field(min_length=1, max_length=2048)]
_VolumeSource = Annotated[dict[str, Any], Field(min_length=1)]


def _dns_label(name: str) -> str:
    if not _DNS_LABEL.fullmatch(name):
        raise ValueError(
            f"{name!r} is no DNS-1123 label; use at most 63 lower-case letters, digits and '-'"
        )
    return name


class ObjectMeta(Part):
    """The part of Kubernetes' metadata that is read; the rest is kept by the API server."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: Annotated[str, AfterValidator(_dns_label)]
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    generation: int = 1

    def __str__(self) -> str:
        """`namespace/name`, as run names and messages show it."""
        return f"{self.namespace}/{self.name}"


class PresetOptions(Part):
    """How the preset's weights may be read; `image` has no effect, as in KAITO 0.12."""

    image: str | None = None
    image_pull_secrets: list[str] = []
    model_access_secret: str | None = None


class PresetRef(Part):
    """A named entry of the model catalogue, or any `owner/name` on the Hugging Face hub."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    access_mode: Literal["public", "private"] = "public"
    preset_options: PresetOptions = PresetOptions()


class DataSource(Part):
    """Where files come from: exactly one of urls, image and volumeSource."""

    name: str | None = None
    urls: Annotated[list[_Url], Field(max_length=_MAX_URLS)] = []
    volume_source: _VolumeSource | None = None
    image: str | None = None
    image_pull_secrets: list[str] = []

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [
            field
            for field, value in (
                ("urls", self.urls),
                ("image", self.image),
                ("volumeSource", self.volume_source),
            )
            if value
        ]
        if len(given) != 1:
            raise ValueError(
                f"{_listed(given)} given; set exactly one of urls, image, volumeSource"
            )
        return self


class DataDestination(Part):
    """Where the adapter goes: exactly one of image (with imagePushSecret) and volumeSource."""

    volume_source: _VolumeSource | None = None
    image: str | None = None
    image_push_secret: str | None = None

    @model_validator(mode="after")
    def _one_destination(self) -> Self:
        given = [f for f, v in (("image", self.image), ("volumeSource", self.volume_source)) if v]
        if len(given) != 1:
            raise ValueError(f"{_listed(given)} given; set exactly one of image, volumeSource")
        if self.image and not self.image_push_secret:
            raise ValueError(
                "image without imagePushSecret; name the docker-config Secret to push with"
            )
        return self


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Tuning(Part):
    """What to tune, on what, and where the adapter goes."""

    preset: PresetRef
    method: Annotated[Literal["lora", "qlora"], BeforeValidator(_lower)] = "qlora"
    config: str | None = None
    input: DataSource
    output: DataDestination


class Adapter(Part):
    """A LoRA adapter to serve beside the base model."""

    source: DataSource
    strength: str = "1.0"

    @field_validator("strength")
    @classmethod
    def _in_range(cls, text: str) -> str:
        if not _STRENGTH.fullmatch(text) or float(text) > 1.0:
            raise ValueError(f'{text!r} is no strength; use a number from "0.0" to "1.0"')
        return text

    @model_validator(mode="after")
    def _named_and_no_urls(self) -> Self:
        if self.source.urls:
            raise ValueError("source.urls given; an adapter comes from an image or a volumeSource")
        _dns_label(self.source.name or "")
        return self


class Inference(Part):
    """What to serve: a preset or a pod template."""

    preset: PresetRef | None = None
    template: dict[str, Any] | None = None
    config: str | None = None
    adapters: list[Adapter] = []

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.preset is None) == (self.template is None):
            raise ValueError("set exactly one of inference.preset and inference.template")
        return self

    @field_validator("adapters")
    @classmethod
    def _few_and_distinct(cls, adapters: list[Adapter]) -> list[Adapter]:
        names = [adapter.source.name for adapter in adapters]
        if len(names) > _MAX_ADAPTERS:
            raise ValueError(f"{len(names)} adapters; serve at most {_MAX_ADAPTERS}")
        if twice := sorted({str(n) for n in names if names.count(n) > 1}):
            raise ValueError(
                f"adapter name {', '.join(twice)} used twice; names choose the adapter"
            )
        return adapters


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
        if self.tuning and self.resource.count > 1:
            raise ValueError("resource.count is above 1; tuning runs on one node")
        if self.tuning and self.resource.partition:
            raise ValueError("resource.partition is set; tuning needs whole GPUs")
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
    def secret_names(self) -> tuple[str, ...]:
        """Every Secret that is named, each once: of registries, and of the hub's token."""
        named: list[str] = []
        if self.tuning:
            named += [*self.tuning.input.image_pull_secrets]
            named += [self.tuning.output.image_push_secret or ""]
        if self.inference:
            named += [s for a in self.inference.adapters for s in a.source.image_pull_secrets]
        if self.preset:
            named += [self.preset.preset_options.model_access_secret or ""]
        return tuple(dict.fromkeys(name for name in named if name))

    @property
    def is_served(self) -> bool:
        """Whether an inference server is wanted at the end."""
        return self.metadata.annotations.get(SERVE_ANNOTATION, "true").lower() != "false"

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
            f"{source}: asked to run one object of kind Workspace; found {kinds}; "
            "give a file with exactly one Workspace (kaito.sh/v1beta1)"
        )
    return Manifests(
        workspace=parse_workspace(workspaces[0], source=source),
        config_maps={n: d.get("data") or {} for n, d in _named(documents, "ConfigMap")},
        secrets=dict(_named(documents, "Secret")),
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
            f"{source}: asked to read a Workspace; found\n{problems}\n"
            "correct these fields (`kaitoflow plan FILE` checks without running)"
        ) from None


def _documents(text: str, *, source: str) -> list[dict[str, Any]]:
    try:
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        raise InvalidWorkspace(
            f"{source}: asked to read YAML; found{line}: {getattr(error, 'problem', error)}; "
            "correct the syntax"
        ) from None
    if not all(isinstance(d, dict) for d in documents):
        raise InvalidWorkspace(
            f"{source}: asked to read Kubernetes objects; found plain text or a list; "
            "each document needs apiVersion, kind and metadata"
        )
    return documents


def _named(documents: list[dict[str, Any]], kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [(d["metadata"]["name"], d) for d in documents if d.get("kind") == kind]


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


def _listed(given: list[str]) -> str:
    return " and ".join(given) if given else "none"
