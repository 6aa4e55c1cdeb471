"""The states that Kubernetes writes become a reason and a message with the fix. Pure.

Goes in: Pods, Jobs, StatefulSets, Nodes and Events as the API server gives them (dicts of JSON).
Comes out: a `Diagnosis`, or None while there is nothing to say but what a pod is doing.
"""

from tasks.platform.diagnosis.jobs import diagnose_job, diagnose_refusal
from tasks.platform.diagnosis.pods import diagnose_pod
from tasks.platform.diagnosis.verdict import Diagnosis, diagnosed_error
from tasks.platform.diagnosis.waiting import describe_waiting

__all__ = [
    "Diagnosis",
    "describe_waiting",
    "diagnose_job",
    "diagnose_pod",
    "diagnose_refusal",
    "diagnosed_error",
]
