"""The labels by which everything that a Workspace is made into is found again."""

from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.wire import Seen

MANAGED_BY = {"app.kubernetes.io/managed-by": "kaitoflow"}
WORKSPACE_LABEL = "kaito.sh/workspace"
GENERATION_LABEL = "kaitoflow.io/generation"
POD_LABEL = "kaitoflow.io/pod"
# Of what makes and measures one adapter beside the server: the adapter's number.
CANDIDATE_LABEL = "kaitoflow.io/candidate"
# Of an Indexed Job's pods: which one it is.
POD_NUMBER_LABEL = "batch.kubernetes.io/job-completion-index"


def workspace_labels(workspace: Workspace) -> dict[str, str]:
    """The labels by which every object of a Workspace is found."""
    return {**MANAGED_BY, WORKSPACE_LABEL: workspace.metadata.name}


def labels_of(workspace: Workspace, pod: Pod) -> dict[str, str]:
    """The labels by which what runs in the pod is found among a Workspace's objects."""
    own = {GENERATION_LABEL: str(workspace.metadata.generation), POD_LABEL: pod.name}
    if pod.candidate is not None:
        own[CANDIDATE_LABEL] = str(pod.candidate)
    return workspace_labels(workspace) | own


def pod_number(pod: Seen) -> int:
    """Which one it is of the pods that its Job has at once; 0 = the one that is followed."""
    return int((pod["metadata"].get("labels") or {}).get(POD_NUMBER_LABEL, 0))
