"""Whether what a pod is made into would be made: asked of the namespace's rules and the API server.

Nothing is made: the API server is asked by dry run.
"""

import asyncio
from collections.abc import Sequence

from tasks.contract.errors import KubernetesRefused, QuotaExceeded
from tasks.contract.steps import TUNING
from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.cluster_world import namespace_rules
from tasks.platform.diagnosis import Diagnosis, diagnose_refusal
from tasks.platform.kube_api import KubeApi, is_of_roles
from tasks.platform.manifests.labels import POD_LABEL, workspace_labels
from tasks.platform.manifests.pod_template import made_pod
from tasks.platform.namespace_rules import refusals
from tasks.platform.ownership import is_of
from tasks.platform.wire import Object


async def rehearse(
    api: KubeApi, workspace: Workspace, pod: Pod, manifests: Sequence[Object]
) -> list[Diagnosis]:
    """Why the pod, or what makes it, would be refused, now or for good.

    Args: manifests: of what is made for the pod; the last one makes it.
    """
    rehearsed = made_pod(manifests[-1])
    rules, beside, (of_pod, *of_makers) = await asyncio.gather(
        namespace_rules(api, workspace),
        _ending_before(api, workspace, pod),
        asyncio.gather(*(_rehearsed(api, workspace, m) for m in [rehearsed, *manifests])),
    )
    found = refusals(rehearsed, rules, beside=beside, alike=pod.nodes)
    # Pods that will be gone by then still count for the API server.
    if not found and of_pod and of_pod.reason != QuotaExceeded.__name__:
        found.append(of_pod)
    return found + [each for each in of_makers if each]


async def _rehearsed(api: KubeApi, workspace: Workspace, manifest: Object) -> Diagnosis | None:
    meta = manifest["metadata"]
    if not workspace.metadata.uid:
        meta.pop("ownerReferences", None)  # a Workspace in a file owns nothing yet
    kind, name = manifest["kind"], meta.get("name", "")
    try:
        if kind == "Pod":
            await api.create(kind, meta["namespace"], manifest, dry_run=True)
        else:
            there = await api.get(kind, meta["namespace"], name)
            # A Job that is there stays as it is, a Service makes way for another if need be;
            # what somebody else has left goes by itself.
            is_rehearsed = kind not in ("Job", "Service")
            if there is None or (is_rehearsed and is_of(there, workspace)):
                await api.apply(manifest, dry_run=True)
    except KubernetesRefused as error:
        if is_of_roles(error):
            raise
        asked = f"{kind} {name or meta['generateName']} was to be made for {workspace}"
        return diagnose_refusal(error.said, asked=asked, what="it")
    return None


async def _ending_before(api: KubeApi, workspace: Workspace, pod: Pod) -> list[Object]:
    """The Workspace's pods that have ended when this one comes."""
    labels = workspace_labels(workspace)
    if pod.name == TUNING:  # beside it an older generation may go on being served
        labels = labels | {POD_LABEL: TUNING}
    return await api.find("Pod", workspace.metadata.namespace, labels=labels)
