"""What a cluster's installation is set to, as far as a plan depends on it: read off its worker.

The chart keeps it nowhere else, and who may not see the worker is told what is not known.
"""

import json
from collections.abc import Sequence
from typing import Any

from tasks.contract.artifacts import Check
from tasks.contract.errors import KubernetesRefused, NamespaceNotServed
from tasks.contract.workspace import ObjectMeta
from tasks.plan.check import from_error
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Seen
from tasks.settings import Settings

WORKER = {"app.kubernetes.io/part-of": "kaitoflow", "app.kubernetes.io/component": "worker"}
# Settings that decide what a plan says, and mean the same wherever it is made.
_PLANNED = ("provisioner", "namespaces", "insecure_registries")


async def installed_settings(api: KubeApi, own: Settings, *, namespace: str) -> Settings:
    """The settings of the installation that runs the Workspaces of a namespace.

    What is set here goes before it; what is not to be seen is as it is here.
    """
    try:
        workers = await api.find("StatefulSet", labels=WORKER)
    except KubernetesRefused:
        return own
    known = [own.model_copy(update=_told(worker, own)) for worker in workers]
    return next((each for each in known if each.serves(namespace)), known[0] if known else own)


def _told(worker: Seen, own: Settings) -> dict[str, Any]:
    """What a worker's containers are told of what is not set here."""
    containers: Sequence[Seen] = worker["spec"]["template"]["spec"]["containers"]
    variables = {
        each["name"]: str(each["value"])
        for container in containers
        for each in container.get("env") or ()
        if each.get("value")
    }
    told = {
        name: variables[variable]
        for name in _PLANNED
        if name not in own.model_fields_set
        and (variable := f"KAITOFLOW_{name.upper()}") in variables
    }
    # As the settings read them: what is no plain text is JSON.
    return {name: tuple(json.loads(v)) if v.startswith("[") else v for name, v in told.items()}


def served_check(known: Settings, metadata: ObjectMeta) -> list[Check]:
    """A line where the installation runs no Workspace of the namespace."""
    if known.serves(metadata.namespace):
        return []
    error = NamespaceNotServed(
        f"a Workspace in namespace {metadata.namespace} was asked for",
        f"the cluster's installation runs those of {', '.join(known.namespaces)} alone",
        "name one of these as metadata.namespace, or add it to the chart's namespaces",
    )
    return [from_error("namespace", error, result="fail")]
