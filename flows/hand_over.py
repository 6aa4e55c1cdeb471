"""A form's run hands its Workspace over on a cluster: the watcher's run is the one that works."""

from collections.abc import Collection

from prefect.artifacts import acreate_link_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.utilities.urls import url_for

from flows.cluster.apply import apply, rehearse
from flows.cluster.resume import begin_again
from flows.cluster.watch import await_verdict
from flows.prefect_api import uid_tag
from tasks.contract.workspace import Manifests, Workspace, parse_workspace
from tasks.platform.current import current_platform
from tasks.platform.kubernetes import KubernetesPlatform


def is_form_on_a_cluster(workspace: Workspace, tags: Collection[str]) -> bool:
    """Whether a run with these tags is a form's, beside which the watcher starts its own.

    What a form's run has applied has a uid, too, when that run is begun again.
    """
    return current_platform().is_cluster and uid_tag(workspace.metadata.uid) not in tags


async def apply_to_cluster(manifests: Manifests) -> tuple[Workspace, str | None]:
    """The Workspace as the API server keeps it, and a run of it whose verdict is not waited for.

    Raises: InvalidWorkspace, KubernetesRefused: nothing was applied.
    """
    if manifests.workspace.metadata.uid:
        return manifests.workspace, None
    api, meta = await _platform().api(), manifests.workspace.metadata
    await rehearse(api, manifests)
    before = await api.get("Workspace", meta.namespace, meta.name)
    workspace = parse_workspace(await apply(api, manifests), source=str(manifests.workspace))
    return workspace, await begin_again(api, workspace, before)


async def hand_over(workspace: Workspace, *, previous_run: str | None) -> "State[None]":
    """The end of the form's run, once the watcher's has accepted the Workspace.

    Raises: what it is refused for; NoWatcher.
    """
    api = await _platform().api()
    status = await await_verdict(api, workspace, previous_run=previous_run)
    url = url_for("flow-run", obj_id=status.flow_run_id)
    if url:
        await acreate_link_artifact(
            url, link_text=f"run {workspace}", key="run", description=f"The run of {workspace}"
        )
    message = f"{workspace} is accepted; its run is {url or status.flow_run_id}"
    return Completed(name="HandedOver", message=message)


def _platform() -> KubernetesPlatform:
    platform = current_platform()
    assert isinstance(platform, KubernetesPlatform)
    return platform
