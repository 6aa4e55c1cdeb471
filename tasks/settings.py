"""Settings of one installation: KAITOFLOW_* environment variables; defaults for one machine."""

import functools
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What may differ between installations; every field is KAITOFLOW_<NAME> in the environment."""

    model_config = SettingsConfigDict(env_prefix="KAITOFLOW_", frozen=True)

    home: Path = Path("~/.kaitoflow")
    """Everything the local platform keeps: Workspaces, models, images, Prefect's database."""

    platform: Literal["local", "kubernetes"] = "local"
    """Where pods run."""

    provisioner: Literal["local", "byo"] | None = None
    """Where nodes come from: this machine, or those that the cluster has; None = as pods run."""

    node_ready_timeout_s: float = Field(default=600, gt=0)
    """How long a run waits for a node that fits its Workspace."""

    allow_local_addresses: bool = False
    """Whether a dataset may come over http from this machine or from a private network."""

    pod_image: str = "kaitoflow/pod:0.1.0"
    """The image with all pod programs; on a cluster."""

    pod_image_pull_secrets: tuple[str, ...] = ()
    """Secrets with which the kubelet pulls it."""

    pod_environment: dict[str, str] = {}
    """Variables of every container on a cluster, as JSON: HF_ENDPOINT names a mirror of the hub."""

    insecure_registries: tuple[str, ...] = ()
    """Registries (host:port) spoken to by plain http; those on loopback always are."""

    server_ready_timeout_s: float = Field(default=300, gt=0)
    """How long the inference server may take until it answers /health."""

    stop_grace_s: float = Field(default=20, gt=0)
    """How long a pod program may take to end after it was asked to."""

    watcher_timeout_s: float = Field(default=20, gt=0)
    """How long a command line waits for a cluster's watcher to act."""

    @model_validator(mode="after")
    def _nodes_for_pods(self) -> Self:
        if self.provisioner and (self.provisioner == "local") != (self.platform == "local"):
            raise ValueError(
                f"KAITOFLOW_PROVISIONER={self.provisioner} was asked for; pods run on platform "
                f"{self.platform}; leave it unset to get the nodes that pods need"
            )
        return self

    @property
    def home_dir(self) -> Path:
        """`home`, absolute and with `~` expanded."""
        return self.home.expanduser().absolute()


@functools.cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
