"""What an installation says of all its pods."""

from dataclasses import dataclass

from tasks.platform.wire import Object


@dataclass(frozen=True, kw_only=True)
class PodSettings:
    """What an installation says of its pods.

    image: has all pod programs. vllm_image: has vLLM, and what serves in front of it.
    environment: variables of every container (a hub mirror, ...).
    job_timeout_s: how long a Job may take in all, with waiting and every new try.
    labels, annotations: of every pod; a Workspace's own win, and those that a pod has by itself.
    priority_class, runtime_class: of every pod whose Workspace names none; "" = none.
    tolerations: of every pod, beside those that it has by itself.
    volumes, mounts: more of them, as in a pod's spec; of all containers that are ours.
    are_nodes_made: whether each Workspace has nodes that were made for it.
    """

    image: str
    job_timeout_s: float
    vllm_image: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    priority_class: str = ""
    runtime_class: str = ""
    tolerations: tuple[Object, ...] = ()
    volumes: tuple[Object, ...] = ()
    mounts: tuple[Object, ...] = ()
    are_nodes_made: bool = False
