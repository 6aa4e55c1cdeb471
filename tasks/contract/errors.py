"""Everything that can go wrong, as one small tree. A class name is the reason a condition shows.

    KaitoflowError                 what was asked, what was found, what to do
    ├── Refused                    the input is at fault: exit 3, never tried again
    │   ├── InvalidWorkspace           unreadable YAML, wrong kind, a field out of its rule
    │   ├── UnknownPreset              no such entry in the model catalogue
    │   ├── InvalidTuningConfig        a training_config.yaml value that cannot be used
    │   ├── ModelDoesNotFit            more memory needed than there is
    │   ├── WeightsUnavailable         the model's weights cannot be had (gated, absent)
    │   ├── DatasetUnreachable         404, refused connection
    │   │   └── AddressForbidden           inside a private network, or a metadata service
    │   ├── DatasetUnreadable          HTML page, empty, truncated, unknown format
    │   ├── DatasetRowsInvalid         rows that cannot be trained on
    │   ├── ImageReferenceInvalid      a placeholder or malformed image name
    │   ├── RegistryDenied             the registry refuses the credentials
    │   ├── AdapterMismatch            an adapter made for another base model
    │   ├── AdapterInvalid             a file of the adapter is missing, cut short or forbidden
    │   ├── ImageUnreadable            an image that is damaged, unsafe or has no /data
    │   ├── PortInUse                  somebody else listens where the server should
    │   ├── UnknownInstanceType        no such machine in the catalogue
    │   ├── InvalidSettings            a KAITOFLOW_* variable that is not what it may be
    │   ├── InvalidPriceTable          a price table of a person's own that cannot be read
    │   ├── DeploymentUnusable         no async flow that a worker could import
    │   ├── NameTaken                  an object of somebody else has the name of one to be made
    │   ├── StepUnknown                no step or container of a run has the name that is asked for
    │   ├── SecretNotFound             a Secret that the Workspace names is not there
    │   └── ConfigMapNotFound          a ConfigMap that the Workspace names is not there
    └── Failed                     the world is at fault: exit 1, `retryable` says if again may help
        ├── RunInProgress              another run holds the Workspace
        ├── RunSuperseded              the Workspace has a newer generation, or is gone
        ├── LogNotFound                a step has no log, or none yet
        ├── DiskFull
        ├── StateUnreadable            a file in which a Workspace is kept is damaged
        ├── HomeUnusable               KAITOFLOW_HOME cannot be written to
        ├── DownloadFailed             the network broke and kept breaking
        ├── RegistryUnavailable        5xx, time-outs, broken uploads
        ├── OutOfMemory
        ├── ContainerKilled            a pod program ended without a verdict
        ├── TrainingDiverged           the loss is not a number
        ├── ServerNotReady             the inference server did not come up in time
        ├── NodeNotReady               no node that fits was there in time
        ├── NodeClaimNotReady          a node that was claimed is not there yet
        ├── NodeLimitReached           this installation may not claim more nodes
        ├── NoOfferLeft                every kind of node that would do was refused
        ├── OfferUnavailable           one kind of node cannot be had now; another may
        │   ├── InsufficientQuota          the subscription's quota has no room for it
        │   ├── InsufficientCapacity       the cloud has no such machine free
        │   ├── SkuNotAvailable            not sold in this region, zone or subscription
        │   ├── NodeLaunchTimedOut         no machine within the launch deadline
        │   ├── NodeRegistrationTimedOut   the machine did not join the cluster in time
        │   └── GpuNotReady                its GPUs were not counted in time
        ├── CloudDenied                the cloud refuses the credentials or the call
        ├── CloudUnavailable           the cloud does not answer, or not sensibly
        ├── Unschedulable              no node takes the pod
        ├── QuotaExceeded              the namespace's quota has no room for the pod
        ├── PodForbidden               a rule of the cluster forbids the pod
        ├── PodRejected                the node that was chosen does not take the pod
        ├── VolumeMountFailed          a volume cannot be attached or mounted
        ├── ImagePullError             the image cannot be had from its registry
        ├── ContainerStartError        the container cannot be made or started
        ├── ContainerCrashLoopBackOff  the container ends again and again
        ├── ContainerOOMKilled         the container reached its memory limit
        ├── GpuIncompatible            the GPU or its driver cannot run what the image has
        ├── NodeDiskPressure           evicted: the node ran out of disk
        ├── NodeMemoryPressure         evicted: the node ran out of memory
        ├── PodEvicted                 evicted for another reason, such as a drained node
        ├── PodPreempted               made way for a pod of higher priority
        ├── NodeLost                   the node went away under the pod
        ├── DeadlineExceeded           the pod or Job was active longer than it may be
        ├── JobFailed                  the Job gave up and left no pod to tell why
        ├── WorkerNameTaken            another live worker has the name
        ├── PrefectUnavailable         no Prefect server, and none could be started
        ├── KubernetesUnavailable      no cluster is configured, or it does not answer
        ├── KubernetesRefused          the API server says no
        ├── LeadershipLost             another replica of the watcher leads
        └── InternalError              a defect of ours

Every error carries its three parts as strings, so that it survives pickling and JSON.
"""


class KaitoflowError(Exception):
    """An error a person can act on: what was asked, what was found, what to do.

    A part that another has said already is empty, and left out where the error is shown.
    """

    exit_code = 1
    retryable = False

    def __init__(self, asked: str, found: str, fix: str) -> None:
        super().__init__(asked, found, fix)
        self.asked, self.found, self.fix = asked, found, fix

    def __str__(self) -> str:
        return _joined(self.asked, self.found, self.fix)

    @property
    def problem(self) -> str:
        """What was asked and what was found, without what to do."""
        return _joined(self.asked, self.found)

    @property
    def reason(self) -> str:
        """The condition reason: this class's name."""
        return type(self).__name__


class Refused(KaitoflowError):
    """The input is at fault; trying again changes nothing."""

    exit_code = 3


class InvalidWorkspace(Refused):
    """The Workspace cannot be read or breaks a rule of its schema."""


class UnknownPreset(Refused):
    """The model catalogue has no such entry."""


class InvalidTuningConfig(Refused):
    """A key or value of training_config.yaml cannot be used."""


class ModelDoesNotFit(Refused):
    """The run needs more memory than the machine has."""


class WeightsUnavailable(Refused):
    """The base model's weights cannot be had."""


class DatasetUnreachable(Refused):
    """The dataset's address answers nothing usable, or is not allowed."""


class AddressForbidden(DatasetUnreachable):
    """The address is inside a private network or of a metadata service, and not to be asked."""


class DatasetUnreadable(Refused):
    """The bytes are no dataset of a supported format."""


class DatasetRowsInvalid(Refused):
    """Rows that cannot be trained on, more than the tolerance allows."""


class ImageReferenceInvalid(Refused):
    """The image name cannot be pushed to or pulled from."""


class RegistryDenied(Refused):
    """The registry refuses the credentials."""


class AdapterMismatch(Refused):
    """The adapter was made for another base model."""


class AdapterInvalid(Refused):
    """A file of the adapter is missing, cut short or of a forbidden kind."""


class ImageUnreadable(Refused):
    """The image is damaged, unsafe to unpack, or has nothing under /data."""


class PortInUse(Refused):
    """The port the server should listen on is taken."""


class DeploymentUnusable(Refused):
    """A deployment's entry point is no async flow that a worker could import."""


class UnknownInstanceType(Refused):
    """The machine that is asked for is not in the catalogue."""


class InvalidSettings(Refused):
    """A KAITOFLOW_* variable of the environment is not what it may be."""


class InvalidPriceTable(Refused):
    """A price table of a person's own cannot be read."""


class NameTaken(Refused):
    """An object of somebody else has the name of one that the Workspace is made into."""


class StepUnknown(Refused):
    """No step or container of a run has the name that is asked for."""


class SecretNotFound(Refused):
    """A Secret that the Workspace names is not there."""


class ConfigMapNotFound(Refused):
    """A ConfigMap that the Workspace names is not there."""


class Failed(KaitoflowError):
    """The world is at fault; `retryable` says whether trying again may help."""


class RunInProgress(Failed):
    """Another run holds the Workspace."""


class RunSuperseded(Failed):
    """The Workspace has a newer generation, or is gone."""


class LogNotFound(Failed):
    """A step has no log, or none yet."""


class DiskFull(Failed):
    """No space left where a file had to be written."""


class StateUnreadable(Failed):
    """A file in which a Workspace is kept here cannot be read, or is not what it should be."""


class HomeUnusable(Failed):
    """The folder that KAITOFLOW_HOME names cannot be written to."""


class DownloadFailed(Failed):
    """The network broke, and kept breaking."""

    retryable = True


class RegistryUnavailable(Failed):
    """The registry answers 5xx, times out or breaks uploads."""

    retryable = True


class OutOfMemory(Failed):
    """The process asked for more memory than was free."""


class ContainerKilled(Failed):
    """A pod program ended without a verdict of its own."""

    retryable = True


class TrainingDiverged(Failed):
    """The loss is not a number any more."""


class ServerNotReady(Failed):
    """The inference server did not answer /health in time."""


class NodeNotReady(Failed):
    """No node that fits the Workspace was there in time."""

    retryable = True


class NodeClaimNotReady(Failed):
    """A node that was claimed is not there yet."""

    retryable = True


class NodeLimitReached(Failed):
    """This installation has claimed as many nodes as it may."""

    retryable = True


class NoOfferLeft(Failed):
    """Every kind of node that would do was refused, and the time to wait for one is over."""

    retryable = True


class OfferUnavailable(Failed):
    """One kind of node cannot be had now; another kind, or a later try, may be."""

    retryable = True


class InsufficientQuota(OfferUnavailable):
    """The subscription's quota has no room for the machine."""


class InsufficientCapacity(OfferUnavailable):
    """The cloud has no such machine free where it was asked for."""


class SkuNotAvailable(OfferUnavailable):
    """The machine is not sold in this region, zone or subscription."""


class NodeLaunchTimedOut(OfferUnavailable):
    """No machine was made within the launch deadline."""


class NodeRegistrationTimedOut(OfferUnavailable):
    """The machine was made and did not join the cluster within the deadline."""


class GpuNotReady(OfferUnavailable):
    """The node joined and its GPUs were not counted within the deadline."""


class CloudDenied(Failed):
    """The cloud refuses the credentials, or what they may do."""


class CloudUnavailable(Failed):
    """The cloud does not answer, or answers with an error of its own."""

    retryable = True


class Unschedulable(Failed):
    """The scheduler found no node that takes the pod."""

    retryable = True


class QuotaExceeded(Failed):
    """The namespace's ResourceQuota has no room for the pod."""

    retryable = True


class PodForbidden(Failed):
    """A rule of the cluster (pod security, limit range, webhook) forbids the pod."""


class PodRejected(Failed):
    """The scheduler chose a node whose kubelet did not take the pod."""

    retryable = True


class VolumeMountFailed(Failed):
    """A volume of the pod cannot be attached or mounted."""

    retryable = True


class ImagePullError(Failed):
    """The image cannot be had from its registry: name, credentials or certificates are wrong."""


class ContainerStartError(Failed):
    """The container cannot be made or started."""


class ContainerCrashLoopBackOff(Failed):
    """The container ends again and again."""


class ContainerOOMKilled(Failed):
    """The container was killed at its memory limit."""


class GpuIncompatible(Failed):
    """The GPU or its driver cannot run what the image was built for."""


class NodeDiskPressure(Failed):
    """The pod was evicted because its node ran out of disk."""

    retryable = True


class NodeMemoryPressure(Failed):
    """The pod was evicted because its node ran out of memory."""

    retryable = True


class PodEvicted(Failed):
    """The pod was evicted, for instance from a node that is drained."""

    retryable = True


class PodPreempted(Failed):
    """The pod made way for one of higher priority."""

    retryable = True


class NodeLost(Failed):
    """The node went away under the pod."""

    retryable = True


class DeadlineExceeded(Failed):
    """The pod or its Job was active longer than it may be."""


class JobFailed(Failed):
    """The Job gave up, and no pod is left to tell why."""

    retryable = True


class WorkerNameTaken(Failed):
    """Another live worker of the work pool has the name."""


class PrefectUnavailable(Failed):
    """There is no Prefect server, and none could be started."""


class KubernetesUnavailable(Failed):
    """No cluster is configured, or its API server does not answer."""

    retryable = True


class LeadershipLost(Failed):
    """Another replica of the watcher leads."""


class KubernetesRefused(Failed):
    """The API server answers, and says no.

    status: of HTTP. said: the server's own words.
    """

    status = 0
    said = ""


class InternalError(Failed):
    """A defect of ours; the message carries the trace's last line."""


def _tree(root: type[KaitoflowError]) -> dict[str, type[KaitoflowError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def error_from_reason(reason: str, *, asked: str, found: str, fix: str) -> KaitoflowError:
    """The typed error that a verdict stands for; InternalError when the reason is unknown."""
    return _tree(KaitoflowError).get(reason, InternalError)(asked, found, fix)
