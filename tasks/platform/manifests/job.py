"""The Job that runs a pod to its end."""

from tasks.contract.programs.evaluation import CommandConfig
from tasks.contract.workspace import Workspace
from tasks.platform.base import Pod
from tasks.platform.manifests.containers import containers_of
from tasks.platform.manifests.labels import labels_of
from tasks.platform.manifests.naming import job_name
from tasks.platform.manifests.owned import owned_object
from tasks.platform.manifests.pod_settings import PodSettings
from tasks.platform.manifests.pod_template import pod_template
from tasks.platform.manifests.several_nodes import apart_from_each_other
from tasks.platform.passed_on import queue_labels
from tasks.platform.wire import Object

_BACKOFF_LIMIT = 2
# What a pod program says by its exit code (tasks/contract/podlog.py): these would end the same
# way again, and so would one that took more memory than there is (137, when its node stays).
_FINAL_EXIT_CODES = [1, 3, 137]


def job_of(workspace: Workspace, pod: Pod, settings: PodSettings) -> Object:
    """The Job that runs the pod's containers one after the other, on each of its nodes.

    Of several nodes the first pod speaks for all, and the Job has succeeded when that one has. Any
    other stays until then: where one is lost, all go on together with the one in its place.
    """
    template = pod_template(workspace, pod, settings)
    *first, last = containers_of(workspace, pod, settings)
    template["spec"] |= {"restartPolicy": "Never", "initContainers": first, "containers": [last]}
    spec = {
        "backoffLimit": _BACKOFF_LIMIT * pod.nodes,
        "activeDeadlineSeconds": round(settings.job_timeout_s),
        "podReplacementPolicy": "Failed",  # never two pods that could push to one tag
        "podFailurePolicy": {"rules": _failure_rules(pod)},
        "template": template,
    }
    if pod.nodes > 1:
        spec |= {
            "completionMode": "Indexed",
            "completions": pod.nodes,
            "parallelism": pod.nodes,
            "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
        }
        affinity = template["spec"].get("affinity") or {}
        template["spec"] |= apart_from_each_other(workspace, pod, affinity)
    name = job_name(workspace, pod.name, pod.candidate)
    job = owned_object("batch/v1", "Job", workspace, name, spec=spec)
    job["metadata"]["labels"] = queue_labels(workspace) | labels_of(workspace, pod)
    return job


def _failure_rules(pod: Pod) -> list[Object]:
    """Which ends of a pod count as no failure, and which are final."""
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    final = {"operator": "In", "values": _FINAL_EXIT_CODES}
    commands = [each for each in pod.containers if isinstance(each.config, CommandConfig)]
    said = [{"containerName": each.name, "operator": "NotIn", "values": [0]} for each in commands]
    return [
        {"action": "Ignore", "onPodConditions": disrupted},
        {"action": "FailJob", "onExitCodes": final},
        # What a user's command says is final: a new pod would train again for it.
        *({"action": "FailJob", "onExitCodes": codes} for codes in said),
    ]
