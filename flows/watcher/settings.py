"""Settings of the watcher: KAITOFLOW_* environment variables."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WatcherSettings(BaseSettings):
    """What may differ between installations of the watcher."""

    model_config = SettingsConfigDict(env_prefix="KAITOFLOW_", frozen=True)

    worker_url: str = ""
    """The worker's endpoint, told of a new run at once; empty = the worker finds it by polling."""

    watcher_port: int = Field(default=8081, ge=0)
    """Where /healthz listens."""

    resync_s: float = Field(default=20, gt=0)
    """How often every Workspace is looked at again, and lost runs are searched for."""

    backoff_s: float = Field(default=10, gt=0)
    """How long the first repetition of a lost run waits; each further one twice as long."""

    watch_dead_s: float = Field(default=120, gt=0)
    """How long the watch may lag behind a list before /healthz fails."""

    lease_namespace: str = "default"
    """Where the Lease lies that decides which replica leads."""

    lease_s: int = Field(default=15, ge=6)
    """How long a leader that says nothing stays leader."""
