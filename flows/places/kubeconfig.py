"""Which cluster a command line speaks to, in the words of the kubeconfig."""

from dataclasses import dataclass
from pathlib import Path

from kubernetes.aio import config

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Context:
    """A cluster's name for people, and the namespace that is meant when none is given."""

    name: str
    namespace: str


def chosen_context(name: str | None) -> Context:
    """The context of that name, or the current one; a pod without a kubeconfig is in its own."""
    try:
        contexts, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError):
        in_pod = _POD_NAMESPACE.exists()
        return Context(
            name="in-cluster" if in_pod else "",
            namespace=_POD_NAMESPACE.read_text(encoding="utf-8") if in_pod else "default",
        )
    wanted = next((each for each in contexts if each["name"] == name), current)
    return Context(
        name=str(wanted["name"]), namespace=wanted["context"].get("namespace") or "default"
    )
