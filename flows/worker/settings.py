"""Settings of the in-process worker: KAITOFLOW_WORKER_* environment variables."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorkerSettings(BaseSettings):
    """What may differ between workers; a field is KAITOFLOW_WORKER_<NAME> in the environment."""

    model_config = SettingsConfigDict(env_prefix="KAITOFLOW_WORKER_", frozen=True)

    limit: int = Field(default=200, gt=0)
    """Runs held at once. 20 where Prefect's server uses SQLite, which has one writer at a time."""

    starts: int = Field(default=8, gt=0)
    """Runs that are on their way from scheduled to running at once; the rest wait their turn."""

    host: str = "127.0.0.1"
    """Where /healthz and /poke listen; 0.0.0.0 in a pod."""

    port: int = Field(default=8787, ge=0, le=65535)
    """Their port; 0 = any free one."""

    poll_s: float = Field(default=5, gt=0)
    """How often to ask for new runs when nobody pokes."""

    watch_s: float = Field(default=2, gt=0)
    """How often to ask whether a held run was cancelled or deleted."""

    heartbeat_s: int = Field(default=5, gt=0)
    """How often to tell the server that this worker lives, in whole seconds as Prefect counts."""

    lease_s: float = Field(default=300, gt=0)
    """How long a worker that is not heard of keeps its runs; after it, others resume them.

    A worker that cannot reach the server gives its runs up at 80 % of it, so no run is ever
    executed twice at once. Longer than Prefect's client tries again (254 s with seven retries).
    """

    stop_grace_s: float = Field(default=20, gt=0)
    """How long runs may take to end when the worker is asked to."""
