"""Everything that can go wrong, as one small tree. A class name is the reason a condition shows.

    KaitoflowError                 what was asked, what was found, what to do
    ├── Refused                    the input is at fault: exit 3, never tried again
    │   ├── InvalidWorkspace           unreadable YAML, wrong kind, a field out of its rule
    │   ├── UnknownPreset              no such entry in the model catalogue
    │   ├── InvalidTuningConfig        a training_config.yaml value that cannot be used
    │   ├── ModelNotSupported          what is asked for cannot be done with the base model
    │   ├── ModelDoesNotFit            more memory needed than there is
    │   ├── WeightsUnavailable         the model's weights cannot be had (gated, absent)
    │   ├── DatasetUnreachable         404, refused connection
    │   │   └── AddressForbidden           inside a private network, or a metadata service
    │   ├── DatasetUnreadable          HTML page, empty, truncated, unknown format
    │   ├── DatasetRowsInvalid         rows that cannot be trained on
    │   ├── ImageReferenceInvalid      a placeholder or malformed image name
    │   ├── RegistryDenied             the registry refuses the credentials
    │   ├── AdapterNotFound            no adapter of that number is known
    │   ├── AdapterMismatch            an adapter made for another base model
    │   ├── ServedDiffers              an adapter that would answer otherwise than when tuned
    │   ├── AdapterInvalid             a file of the adapter is missing, cut short or forbidden
    │   ├── ImageUnreadable            an image that is damaged, unsafe or has no /data
    │   ├── FolderTaken                something is where a merged model should be written
    │   ├── PortInUse                  somebody else listens where the server should
    │   ├── UnknownInstanceType        no such machine in the catalogue
    │   ├── InstanceTypeMissing        a node is to be made, and it is not said of which kind
    │   ├── InvalidSettings            a KAITOFLOW_* variable that is not what it may be
    │   ├── InvalidPriceTable          a price table of a person's own that cannot be read
    │   ├── DeploymentUnusable         no async flow that a worker could import
    │   ├── NameTaken                  an object of somebody else has the name of one to be made
    │   ├── TagTaken                   another Workspace publishes under the same name and tag
    │   ├── NoRoomToTune               a server holds the GPU that its successor needs
    │   ├── StepUnknown                no step or container of a run has the name that is asked for
    │   ├── NamespaceNotServed         this installation runs no Workspaces of the namespace
    │   ├── SecretNotFound             a Secret that the Workspace names is not there
    │   ├── SecretUnusable             it does not hold what it is named for
    │   ├── JudgeUnusable              the model that is to judge answers does not, or not in grades
    │   ├── GateCommandUnusable        the gate's command tells no scores that can be compared
    │   ├── VolumeUnusable             a volume claim that is named is not there, or cannot be used
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
        ├── JudgeUnavailable           the model that judges answers is away
        ├── GateCommandFailed          the gate's command did not end well
        ├── OutOfMemory
        ├── ContainerKilled            a pod program ended without a verdict
        ├── PodsNotTogether            pods that were to train together did not come, or differ
        ├── TrainingDiverged           the loss is not a number, or far above where it began
        ├── NothingLearned             the adapter makes answers no better, or worse
        ├── BudgetSpent                the time or money that a training may take is spent
        ├── ServerNotReady             the inference server did not come up in time
        ├── EngineEnded                what generates behind the server ended by itself
        ├── NodeNotReady               no node that fits was there in time
        ├── NodeClaimNotReady          a node that was claimed is not there yet
        ├── NodeLimitReached           this installation may not claim more nodes
        ├── NoOfferLeft                every kind of node that would do was refused
        ├── OfferUnavailable           one kind of node cannot be had now; another may
        │   ├── InsufficientQuota          the subscription's quota has no room for it
        │   ├── InsufficientCapacity       the cloud has no such machine free
        │   ├── SkuNotAvailable            not sold in this region, zone or subscription
        │   ├── NodeLaunchTimedOut         no machine within the launch deadline
        │   ├── NodeClaimDeleted           who makes nodes, or a person, deleted the claim
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
        ├── NodeLost                   the node went away under the pod, or is about to
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
    retryable: whether the same program may do it if it is asked once more.
    may_pass: whether the world may mend it without an edit of the Workspace, so that a Workspace
    that has failed by it is looked at again, ever more rarely.
    is_unheard: whether nobody tells when the world has mended it, so that looks stay frequent.
    refuses: whether nothing was begun: by what was asked for, or by a plan that saw it coming.
    """

    exit_code = 1
    retryable = False
    may_pass = False
    is_unheard = False
    refuses = False

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
    refuses = True


class InvalidWorkspace(Refused):
    """The Workspace cannot be read or breaks a rule of its schema."""


class UnknownPreset(Refused):
    """The model catalogue has no such entry."""


class InvalidTuningConfig(Refused):
    """A key or value of training_config.yaml cannot be used."""


class ModelNotSupported(Refused):
    """The trainer or the server cannot do with this base model what is asked for."""


class ModelDoesNotFit(Refused):
    """The run needs more memory than the machine has."""


class WeightsUnavailable(Refused):
    """The base model's weights cannot be had."""

    may_pass = True


class DatasetUnreachable(Refused):
    """The dataset's address answers nothing usable, or is not allowed."""

    may_pass = True


class AddressForbidden(DatasetUnreachable):
    """The address is inside a private network or of a metadata service, and not to be asked."""

    may_pass = False


class DatasetUnreadable(Refused):
    """The bytes are no dataset of a supported format."""


class DatasetRowsInvalid(Refused):
    """Rows that cannot be trained on, more than the tolerance allows."""


class ImageReferenceInvalid(Refused):
    """The image name cannot be pushed to or pulled from."""


class RegistryDenied(Refused):
    """The registry refuses the credentials."""

    may_pass = True


class AdapterMismatch(Refused):
    """The adapter was made for another base model."""


class ServedDiffers(Refused):
    """The adapter would answer otherwise than it did where it was tuned."""


class AdapterInvalid(Refused):
    """A file of the adapter is missing, cut short or of a forbidden kind."""


class ImageUnreadable(Refused):
    """The image is damaged, unsafe to unpack, or has nothing under /data."""


class PortInUse(Refused):
    """The port the server should listen on is taken."""


class FolderTaken(Refused):
    """There is something already where a merged model should be written."""


class DeploymentUnusable(Refused):
    """A deployment's entry point is no async flow that a worker could import."""


class UnknownInstanceType(Refused):
    """The machine that is asked for is not in the catalogue."""


class InstanceTypeMissing(Refused):
    """A node is to be made for the Workspace, and it is not said of which kind."""


class InvalidSettings(Refused):
    """A KAITOFLOW_* variable of the environment is not what it may be."""


class InvalidPriceTable(Refused):
    """A price table of a person's own cannot be read."""

    may_pass = True


class NameTaken(Refused):
    """An object of somebody else has the name of one that the Workspace is made into."""

    may_pass = True


class TagTaken(Refused):
    """Another Workspace publishes its adapter under the same name and tag."""

    may_pass = True


class NoRoomToTune(Refused):
    """What serves holds the GPU that its successor is to be tuned on, and may not pause."""

    may_pass = True


class StepUnknown(Refused):
    """No step or container of a run has the name that is asked for."""


class NamespaceNotServed(Refused):
    """This installation runs no Workspaces of the namespace."""


class SecretNotFound(Refused):
    """A Secret that the Workspace names is not there."""

    may_pass = True
    is_unheard = True  # Secrets are read, never watched


class SecretUnusable(Refused):
    """A Secret that the Workspace names does not hold what it is named for."""

    may_pass = True
    is_unheard = True  # Secrets are read, never watched


class JudgeUnusable(Refused):
    """The model that is to judge answers refuses to, or says no grade."""


class GateCommandUnusable(Refused):
    """The command that is to score a candidate tells no scores that can be compared."""


class VolumeUnusable(Refused):
    """A volume claim that the Workspace names is not there, or cannot be used as it has to be."""

    may_pass = True


class AdapterNotFound(Refused):
    """The Workspace has no adapter of the number that is asked for, or none to go back to."""


class ConfigMapNotFound(Refused):
    """A ConfigMap that the Workspace names is not there."""

    may_pass = True


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

    retryable = may_pass = True


class RegistryUnavailable(Failed):
    """The registry answers 5xx, times out or breaks uploads."""

    retryable = may_pass = True


class JudgeUnavailable(Failed):
    """The model that judges answers does not answer, and kept not answering."""


class GateCommandFailed(Failed):
    """The command that is to score a candidate did not end well."""


class OutOfMemory(Failed):
    """The process asked for more memory than was free."""


class ContainerKilled(Failed):
    """A pod program ended without a verdict of its own."""

    retryable = True


class PodsNotTogether(Failed):
    """Pods that were to train together did not all come in time, or have other data."""


class TrainingDiverged(Failed):
    """The loss is not a number any more, or far above where it began."""


class NothingLearned(Failed):
    """The adapter makes answers no better than the base model's, or worse."""


class BudgetSpent(Failed):
    """The time, or the money, that a training may take is spent."""


class ServerNotReady(Failed):
    """The inference server did not answer /health in time."""

    may_pass = True


class EngineEnded(Failed):
    """What generates behind the inference server ended by itself, and could not be kept running."""

    may_pass = True


class NodeNotReady(Failed):
    """No node that fits the Workspace was there in time."""

    retryable = may_pass = True


class NodeClaimNotReady(Failed):
    """A node that was claimed is not there yet."""

    retryable = may_pass = True


class NodeLimitReached(Failed):
    """This installation has claimed as many nodes as it may."""

    retryable = may_pass = True


class NoOfferLeft(Failed):
    """Every kind of node that would do was refused, and the time to wait for one is over."""

    retryable = may_pass = True


class OfferUnavailable(Failed):
    """One kind of node cannot be had now; another kind, or a later try, may be."""

    retryable = may_pass = True


class InsufficientQuota(OfferUnavailable):
    """The subscription's quota has no room for the machine."""


class InsufficientCapacity(OfferUnavailable):
    """The cloud has no such machine free where it was asked for."""


class SkuNotAvailable(OfferUnavailable):
    """The machine is not sold in this region, zone or subscription."""


class NodeLaunchTimedOut(OfferUnavailable):
    """No machine was made within the launch deadline."""


class NodeClaimDeleted(OfferUnavailable):
    """A claim was deleted by somebody else before it became a node, as Karpenter does."""


class NodeRegistrationTimedOut(OfferUnavailable):
    """The machine was made and did not join the cluster within the deadline."""


class GpuNotReady(OfferUnavailable):
    """The node joined and its GPUs were not counted within the deadline."""


class CloudDenied(Failed):
    """The cloud refuses the credentials, or what they may do."""

    may_pass = True


class CloudUnavailable(Failed):
    """The cloud does not answer, or answers with an error of its own."""

    retryable = may_pass = True


class Unschedulable(Failed):
    """The scheduler found no node that takes the pod."""

    retryable = may_pass = True


class QuotaExceeded(Failed):
    """The namespace's ResourceQuota has no room for the pod."""

    retryable = may_pass = True


class PodForbidden(Failed):
    """A rule of the cluster (pod security, limit range, webhook) forbids the pod."""

    may_pass = True


class PodRejected(Failed):
    """The scheduler chose a node whose kubelet did not take the pod."""

    retryable = may_pass = True


class VolumeMountFailed(Failed):
    """A volume of the pod cannot be attached or mounted."""

    retryable = may_pass = True


class ImagePullError(Failed):
    """The image cannot be had from its registry: name, credentials or certificates are wrong."""

    may_pass = True


class ContainerStartError(Failed):
    """The container cannot be made or started."""

    may_pass = True


class ContainerCrashLoopBackOff(Failed):
    """The container ends again and again."""


class ContainerOOMKilled(Failed):
    """The container was killed at its memory limit."""


class GpuIncompatible(Failed):
    """The GPU or its driver cannot run what the image was built for."""


class NodeDiskPressure(Failed):
    """The pod was evicted because its node ran out of disk."""

    retryable = may_pass = True


class NodeMemoryPressure(Failed):
    """The pod was evicted because its node ran out of memory."""

    retryable = may_pass = True


class PodEvicted(Failed):
    """The pod was evicted, for instance from a node that is drained."""

    retryable = may_pass = True


class PodPreempted(Failed):
    """The pod made way for one of higher priority."""

    retryable = may_pass = True


class NodeLost(Failed):
    """The node went away under the pod, or says that it is about to."""

    retryable = may_pass = True


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

    retryable = may_pass = True


class LeadershipLost(Failed):
    """Another replica of the watcher leads."""


class KubernetesRefused(Failed):
    """The API server answers, and says no.

    status: of HTTP. said: the server's own words.
    """

    may_pass = True
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


def is_reason(reason: str) -> bool:
    """Whether a reason is the name of one of these classes."""
    return reason in _tree(KaitoflowError)


def reasons() -> dict[str, type[KaitoflowError]]:
    """The classes that conditions and messages name, by name; not those of the command line."""
    above = (KaitoflowError, Refused, Failed)
    return {
        name: kind
        for name, kind in _tree(KaitoflowError).items()
        if kind.__module__ == __name__ and kind not in above
    }


def may_pass(reason: str) -> bool:
    """Whether the error of this reason may pass without an edit of the Workspace."""
    return _tree(KaitoflowError).get(reason, InternalError).may_pass


def error_from_reason(reason: str, *, asked: str, found: str, fix: str) -> KaitoflowError:
    """The typed error that a verdict stands for; InternalError when the reason is unknown."""
    return _tree(KaitoflowError).get(reason, InternalError)(asked, found, fix)
