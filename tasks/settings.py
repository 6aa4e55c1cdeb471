"""Settings of one installation: KAITOFLOW_* environment variables; defaults for one machine."""

import functools
import re
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from tasks.contract.errors import ImageReferenceInvalid, InvalidSettings
from tasks.contract.image_reference import model_image

AnySettings = TypeVar("AnySettings", bound=BaseSettings)

_ORIGIN = re.compile(r"\*|[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#@*\s]+")
_NODE_CLASS = re.compile(r"[^/]+/[^/]+/[^/]+")


class Settings(BaseSettings):
    """What may differ between installations; every field is KAITOFLOW_<NAME> in the environment."""

    model_config = SettingsConfigDict(env_prefix="KAITOFLOW_", frozen=True)

    home: Path = Path("~/.kaitoflow")
    """Everything the local platform keeps: Workspaces, models, images, Prefect's database."""

    platform: Literal["local", "kubernetes"] = "local"
    """Where pods run."""

    provisioner: Literal["local", "byo", "karpenter", "aks"] | None = None
    """Where nodes come from: this machine, those that the cluster has, claims that somebody else
    fulfils, or AKS agent pools that we make; None = as pods run, and no node is made."""

    namespace: str = "default"
    """Where the installation itself lives, and keeps what all its runs share."""

    namespaces: tuple[str, ...] = ()
    """The namespaces of the cluster whose Workspaces are run, as JSON; empty = all of them."""

    launch_timeout_s: float = Field(default=300, gt=0)
    """How long a claimed machine may take to be made."""

    register_timeout_s: float = Field(default=900, gt=0)
    """How long a machine may take to join the cluster, from the claim on."""

    gpu_timeout_s: float = Field(default=600, gt=0)
    """How long a node that has joined may take until its GPUs are counted."""

    capacity_wait_s: float = Field(default=86400, gt=0)
    """How long a run waits for a machine that the cloud has not free, or no quota for."""

    max_nodes: int = Field(default=100, ge=1)
    """How many nodes all Workspaces together may claim: the bound of any mistake."""

    node_class: str = ""
    """GROUP/KIND/NAME of who fulfils claims, for provisioner karpenter.

    Such as karpenter.azure.com/AKSNodeClass/default; empty = KAITO's gpu-provisioner on Azure, the
    EC2NodeClass `default` on AWS.
    """

    garbage_grace_s: float = Field(default=600, ge=0)
    """How long a machine that nobody needs is left alone before it counts as leaked."""

    azure_subscription_id: str = ""
    """Of the AKS cluster, for provisioner aks; like the next three."""

    azure_resource_group: str = ""
    azure_cluster: str = ""
    azure_location: str = ""

    azure_manages_gpus: bool = True
    """Whether AKS brings driver and device plugin to agent pools with GPUs, which is in preview."""

    azure_endpoint: str = ""
    """Another address of Azure Resource Manager; empty = the public cloud's."""

    price_table: Path | None = None
    """A price table of your own, in the form of tasks/skus/prices.yaml; None = the one we ship."""

    node_ready_timeout_s: float = Field(default=600, gt=0)
    """How long a run waits for a node that fits its Workspace."""

    allow_local_addresses: bool = False
    """Whether a dataset may come over http from this machine or from a private network, and what a
    registry sends us on for."""

    pod_image: str = "kaitoflow/pod:0.1.0"
    """The image with all pod programs; on a cluster."""

    vllm_image: str = "kaitoflow/vllm:0.1.0"
    """The image with vLLM and the server in front of it; on a cluster, where vLLM serves."""

    vllm_program: str = ""
    """The `vllm` that serves on this machine; empty = none does. On a cluster the image has it."""

    pod_image_pull_secrets: tuple[str, ...] = ()
    """Secrets with which the kubelet pulls it."""

    pod_environment: dict[str, str] = {}
    """Variables of every container on a cluster, as JSON: HF_ENDPOINT names a mirror of the hub."""

    pod_labels: dict[str, str] = {}
    """Labels of every pod of a Workspace on a cluster, as JSON; like the next."""

    pod_annotations: dict[str, str] = {}
    """Annotations of every pod of a Workspace: sidecar.istio.io/inject: "false" keeps one out."""

    pod_priority_class: str = ""
    """The PriorityClass of every pod whose Workspace names none; empty = the cluster's default."""

    pod_runtime_class: str = ""
    """The RuntimeClass of every pod whose Workspace names none: nvidia, where it is not the
    default's."""

    pod_tolerations: tuple[dict[str, Any], ...] = ()
    """Taints that every pod of a Workspace tolerates, as JSON in the form of a pod's spec; beside
    those of GPU and spot nodes, which all do."""

    pod_volumes: tuple[dict[str, Any], ...] = ()
    """More volumes of every pod of a Workspace, as JSON in the form of a pod's spec."""

    pod_volume_mounts: tuple[dict[str, Any], ...] = ()
    """Where every container has them, likewise."""

    pod_cpu_cores: float = Field(default=0.5, gt=0)
    """CPU cores that a container asks for where its Workspace does not say; one a GPU at least. It
    uses all that are idle."""

    pod_cpu_limit_ratio: float | None = Field(default=None, ge=1)
    """The most CPU a container may use, by what it asks for; None = no limit, unless the namespace
    asks for one."""

    pod_memory_limit_ratio: float | None = Field(default=None, ge=1)
    """The most memory, likewise; None = what the largest batch takes that it would choose."""

    pod_storage_limit_ratio: float | None = Field(default=None, ge=1)
    """The most disk of its node, likewise; None = room for the largest dataset that is taken."""

    insecure_registries: tuple[str, ...] = ()
    """Registries (host:port) spoken to by plain http; those on loopback always are."""

    registry_storage_hosts: tuple[str, ...] = ()
    """Hosts inside a private network to which a registry outside may send us on for layers, as
    JSON: ["minio.example.internal"]. A registry that lies inside itself may without."""

    models_registry: str = ""
    """A registry, or a path of it, that base models come from instead of from the hub, as
    `kaitoflow models push` leaves them there; empty = the hub."""

    models_registry_secret: str = ""
    """The docker Secret with its login, in the namespace of each Workspace; empty = anonymous. One
    machine uses docker's own config of its user."""

    job_timeout_s: float = Field(default=7 * 86400, ge=60)
    """How long a tuning Job may take in all, on a cluster: with waiting and every new try."""

    step_silence_timeout_s: float = Field(default=7200, gt=0)
    """How long a container that has started may neither say anything nor end: it holds a GPU."""

    push_denied_patience_s: float = Field(default=3600, gt=0)
    """How long a push that its registry refuses is tried again while it holds GPUs of a node that
    was made for it. Elsewhere on a cluster it is a day."""

    gate_command_timeout_s: float = Field(default=3600, gt=0)
    """How long a command of a user's own may take that scores a candidate, once it has started."""

    allow_commands: bool = False
    """Whether a Workspace may name a command that scores its candidates as a process of this
    machine, with all that this user may; on a cluster commands have containers, and it says
    nothing."""

    server_ready_timeout_s: float = Field(default=300, gt=0)
    """How long the inference server may take until it answers /health."""

    server_max_concurrency: int | None = Field(default=None, ge=1)
    """How many continuations an inference server works at together; None = 16, by vLLM 256."""

    server_max_queue: int = Field(default=64, ge=0)
    """How many more may wait; who comes then is told to come back (429)."""

    server_max_context_tokens: int | None = Field(default=None, ge=2)
    """The most tokens of a prompt and its answer together; None = what model and memory allow."""

    server_cors_origins: tuple[str, ...] = ()
    """Web pages that may ask the inference server, as JSON: ["https://chat.example.com"]; besides
    its own page. ["*"] = all; credentials are never asked for."""

    server_key: SecretStr = SecretStr("")
    """The user's key that `kaitoflow chat` bears, for servers that ask for one."""

    server_asks_for_keys: bool = False
    """Whether an inference server answers those alone who bear one of its users' keys: they lie in
    the file `user-keys` of the Workspace's folder, on a cluster in Secret WORKSPACE-user-keys."""

    server_adapters_dir: Path | None = None
    """Below which folder adapters lie that an inference server may load while it serves, as its own
    machine or pod sees it; None = the one that it starts with."""

    server_max_loaded_adapters: int | None = Field(default=None, ge=1)
    """How many of the adapters that were loaded while an inference server serves are in its memory
    at once; the least recently used make way and come back when they are asked; None = all."""

    server_drain_s: float = Field(default=30, ge=0, le=240)
    """How long answers under way may take to end when an inference server is told to stop."""

    server_idle_s: float = Field(default=600, ge=0)
    """How long an inference server's request may wait for its first or next token before it ends
    with an error; 0 = without end."""

    server_write_s: float = Field(default=60, gt=0)
    """How long a client of an inference server may take nothing of its answer before it is cut."""

    plan_timeout_s: float = Field(default=3, gt=0)
    """How long a plan waits for what it asks others: dataset, registry, cluster and cloud."""

    stop_grace_s: float = Field(default=20, gt=0)
    """How long a pod program may take to end after it was asked to."""

    watcher_timeout_s: float = Field(default=20, gt=0)
    """How long a command line waits for a cluster's watcher to act."""

    notify: str = Field(default="", pattern=r"^([a-z0-9-]+/[a-z0-9-]+)?$")
    """TYPE/NAME of a notification block of Prefect's, as slack-webhook/team: it tells a person of
    runs that fail, adapters that are kept out or wait, and leaks; empty = nobody does."""

    @field_validator("server_cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"KAITOFLOW_SERVER_CORS_ORIGINS names {origin!r}; browsers send an origin as "
                    "scheme://host or scheme://host:port; write it so, without a path, or '*'"
                )
        return tuple(origin.lower() for origin in origins)

    @field_validator("models_registry")
    @classmethod
    def _takes_models(cls, registry: str) -> str:
        if registry:
            try:
                model_image(registry, "owner/model", "main")
            except ImageReferenceInvalid as error:
                raise ValueError(
                    f"KAITOFLOW_MODELS_REGISTRY is {registry!r}; {error.found}; write host, or"
                    " host/path, as in registry.example.com/models"
                ) from None
        return registry

    @field_validator("node_class")
    @classmethod
    def _whole_node_class(cls, named: str) -> str:
        if named and not _NODE_CLASS.fullmatch(named):
            raise ValueError(
                f"KAITOFLOW_NODE_CLASS is {named!r}; claims name a group, a kind and a name; write "
                "karpenter.azure.com/AKSNodeClass/default, or leave it empty"
            )
        return named

    @model_validator(mode="after")
    def _nodes_for_pods(self) -> Self:
        if self.provisioner and (self.provisioner == "local") != (self.platform == "local"):
            raise ValueError(
                f"KAITOFLOW_PROVISIONER={self.provisioner} was asked for; pods run on platform "
                f"{self.platform}; leave it unset to get the nodes that pods need"
            )
        if self.node_class and self.provisioner != "karpenter":
            raise ValueError(
                f"KAITOFLOW_NODE_CLASS={self.node_class} was asked for; only provisioner karpenter "
                "claims nodes of a class; leave it unset"
            )
        return self

    def serves(self, namespace: str) -> bool:
        """Whether Workspaces of this namespace are run."""
        return not self.namespaces or namespace in self.namespaces

    @property
    def storage_hosts(self) -> tuple[str, ...]:
        """The hosts inside to which any registry may send us on; `*` = all."""
        return ("*",) if self.allow_local_addresses else self.registry_storage_hosts

    @property
    def makes_nodes(self) -> bool:
        """Whether nodes are made for Workspaces."""
        return self.provisioner in {"karpenter", "aks"}

    @property
    def home_dir(self) -> Path:
        """`home`, absolute and with `~` expanded."""
        return self.home.expanduser().absolute()


@functools.cache
def settings() -> Settings:
    """The settings of this process, read once.

    Raises: InvalidSettings.
    """
    return read_settings(Settings)


def read_settings(kind: type[AnySettings], **given: Any) -> AnySettings:
    """What the environment says, and what is given goes before it.

    Raises: InvalidSettings: each variable that cannot be used, what it is, and what it may be.
    """
    prefix = kind.model_config["env_prefix"].upper()
    try:
        return kind(**given)
    except ValidationError as error:
        problems = [_problem(each, prefix) for each in error.errors()]
    except SettingsError as error:
        # A value that is to be JSON; pydantic tells the field in its message alone.
        said = f"{error}: {error.__cause__}"
        named = [name for name in kind.model_fields if f'"{name}"' in said]
        problems = [f"{prefix}{name.upper()} is no JSON ({error.__cause__})" for name in named]
        problems = problems or [said]
    raise InvalidSettings(
        "the settings were to be read from the environment",
        "; ".join(problems),
        "correct what is named, or unset it",
    )


def _problem(error: Any, prefix: str) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"] or message.startswith(prefix):
        return str(message)
    name = f"{prefix}{error['loc'][0].upper()}"
    rule = message.replace("Input should be", "it must be")
    return f"{name} is {error['input']!r}, {rule}"
