"""The parts of a Workspace, each with the rules that it can judge alone.

The same rules stand in the CRD (deployments/crds), where the API server judges them.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from tasks.contract.redaction import redacted
from tasks.contract.resource_rules import check_expression, check_partition, check_selects

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_STRENGTH = re.compile(r"([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]{1,2})?")
_MAX_ADAPTERS = 10
_MAX_URLS = 256
_URL_MAX_CHARS = 2048
_Url = Annotated[str, Field(min_length=1, max_length=_URL_MAX_CHARS)]
_VolumeSource = Annotated[dict[str, Any], Field(min_length=1)]


def _dns_label(name: str) -> str:
    if not _DNS_LABEL.fullmatch(name):
        raise ValueError(
            f"{name!r} is no DNS-1123 label; use at most 63 lower-case letters, digits and '-'"
        )
    return name


class Part(BaseModel):
    """A part is camelCase in YAML; no unknown field, no value read as another type."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, strict=True
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """Read a field that is null as Kubernetes does: it is not there."""
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if value is not None}
        return given

    def redacted(self) -> Self:
        """The same with `***` for each password, signature and token that a URL in it carries."""
        return type(self).model_validate(_redacted(self.model_dump(by_alias=True)))


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        # `***` may be longer than what it stands for, and is to stay within what the rules allow.
        return redacted(value)[: max(len(value), _URL_MAX_CHARS)]
    if isinstance(value, dict):
        return {key: _redacted(each) for key, each in value.items()}
    return [*map(_redacted, value)] if isinstance(value, list) else value


class ObjectMeta(Part):
    """The part of Kubernetes' metadata that is read; the rest is kept by the API server."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, AfterValidator(_dns_label)]
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    generation: int = 1

    def __str__(self) -> str:
        """`namespace/name`, as run names and messages show it."""
        return f"{self.namespace}/{self.name}"


class LabelSelector(Part):
    """Which nodes will do, by their labels; new nodes get labels that fit."""

    match_labels: dict[str, str] = {}
    match_expressions: list[dict[str, Any]] = []

    @model_validator(mode="after")
    def _names_labels(self) -> Self:
        for expression in self.match_expressions:
            check_expression(expression)
        check_selects([*self.match_labels, *(e["key"] for e in self.match_expressions)])
        return self


class Partition(Part):
    """A share of a node's GPUs (v1beta1)."""

    mode: Literal["mig", "accelerator"]
    profile: str | None = None
    count: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_partition(self.mode, profile=self.profile, count=self.count)
        return self


class Resource(Part):
    """The node that is wanted."""

    count: int = Field(default=1, ge=1)
    instance_type: str = ""
    label_selector: LabelSelector = LabelSelector()
    preferred_nodes: list[str] = []
    partition: Partition | None = None


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
            raise ValueError(
                "source.urls given; an adapter comes from an image or a volumeSource; remove urls"
            )
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
            found = "none" if self.preset is None else "both"
            raise ValueError(f"{found} of preset and template given; set exactly one")
        return self

    @field_validator("adapters")
    @classmethod
    def _few_and_distinct(cls, adapters: list[Adapter]) -> list[Adapter]:
        names = [adapter.source.name for adapter in adapters]
        if len(names) > _MAX_ADAPTERS:
            raise ValueError(f"{len(names)} adapters; serve at most {_MAX_ADAPTERS}")
        if twice := sorted({str(n) for n in names if names.count(n) > 1}):
            raise ValueError(f"adapter name {', '.join(twice)} used twice; name each its own")
        return adapters


def _listed(given: list[str]) -> str:
    return " and ".join(given) if given else "none"
