"""Why a container does not start, or how it ended."""

from tasks.contract.errors import (
    ConfigMapNotFound,
    ContainerCrashLoopBackOff,
    ContainerKilled,
    ContainerOOMKilled,
    ContainerStartError,
    DiskFull,
    GpuIncompatible,
    OutOfMemory,
    SecretNotFound,
)
from tasks.platform.diagnosis.facts import ContainerFacts, phase, restarts_containers
from tasks.platform.diagnosis.verdict import Cause, Diagnosis, find_cause, quoted, verdict
from tasks.platform.wire import Seen, name_of

_START_WAITS = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "PostStartHookError",
        "PreCreateHookError",
        "PreStartHookError",
        "RunContainerError",
    }
)
_START_ENDS = frozenset({"ContainerCannotRun", "StartError"})
# By then the kubelet has waited 10, 20 and 40 s between tries: it is no hiccup.
_HOPELESS_RESTARTS = 3
_KILLED, _TERMINATED = 137, 143

_START_CAUSES = (
    # The kubelet asks the API server for Secrets and ConfigMaps again by itself.
    Cause(
        words=r"timed out waiting for the condition|context deadline exceeded|not registered",
        error=ContainerStartError,
        fix="check that the node reaches the API server and that its runtime answers, "
        "for it is tried again",
        is_final=False,
    ),
    Cause(
        words=r"secret \"[^\"]+\" not found",
        error=SecretNotFound,
        fix="create the Secret in the Workspace's namespace",
    ),
    Cause(
        words=r"configmap \"[^\"]+\" not found",
        error=ConfigMapNotFound,
        fix="create the ConfigMap in the Workspace's namespace",
    ),
    Cause(
        words=r"couldn't find key \S+ in (?:Secret|ConfigMap)",
        error=ContainerStartError,
        fix="add the key to it, or name one that has the key",
    ),
    Cause(
        words=r"runAsNonRoot",
        error=ContainerStartError,
        fix="build the image with a numeric USER other than 0, or set securityContext.runAsUser",
    ),
    Cause(
        words=r"unsatisfied condition: cuda|driver/library version mismatch",
        error=GpuIncompatible,
        fix="update the node's NVIDIA driver, or use an image built for an older CUDA",
    ),
    Cause(
        words=r"nvidia-container-(?:cli|runtime)|libnvidia-ml",
        error=GpuIncompatible,
        fix="install the NVIDIA driver and container toolkit on the node, "
        "and restart its containerd",
    ),
    Cause(
        words=r"executable file not found|no such file or directory",
        error=ContainerStartError,
        fix="name a command that the image has, or an image that has the command",
    ),
    Cause(
        words=r"permission denied",
        error=ContainerStartError,
        fix="make the command executable for the user that the container runs as",
    ),
)
_UNKNOWN_START = Cause(
    error=ContainerStartError,
    fix="see what the node says (kubectl describe pod) and correct the container or its image",
    is_final=False,
)

_END_CAUSES = (
    Cause(
        words=r"no kernel image is available|CUDA driver version is insufficient"
        r"|forward compatibility was attempted on non supported HW|NVIDIA driver .*is too old",
        error=GpuIncompatible,
        fix="take a node with a newer GPU or driver, or an image built for this one",
    ),
    Cause(
        words=r"CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDA error: out of memory",
        error=OutOfMemory,
        fix="lower the batch size or max_length, use method qlora, "
        "or take a node whose GPU has more memory",
        is_final=False,
    ),
    Cause(
        words=r"No space left on device",
        error=DiskFull,
        fix="ask for a larger volume or a node with a larger disk",
        is_final=False,
    ),
)


def diagnose_start(pod: Seen, container: ContainerFacts) -> Diagnosis | None:
    """Why the container cannot be made or started; None unless the kubelet has said so."""
    waits, ended = container.waiting, container.last_end
    if waits.get("reason") in _START_WAITS:
        refusal, is_over = waits, False
    elif ended.get("reason") in _START_ENDS and container.running is None:
        refusal, is_over = ended, _is_over(pod, container)
    else:
        return None
    said = refusal.get("message") or ""
    cause = find_cause(_START_CAUSES, said) or _UNKNOWN_START
    return verdict(
        cause.error,
        asked=f"{container.title} of pod {name_of(pod)} was asked to start",
        found=f"the node refuses: {quoted(said) or refusal['reason']}",
        fix=cause.fix,
        is_final=cause.is_final or is_over,
    )


def diagnose_memory(pod: Seen, container: ContainerFacts) -> Diagnosis | None:
    """Whether the container was killed for its memory, and at which limit."""
    ended, limit = container.last_end, container.memory_limit
    if ended.get("reason") != "OOMKilled" or container.is_ready:
        return None
    may_use = f"may use {limit} of memory" if limit else "has no memory limit of its own"
    return verdict(
        ContainerOOMKilled,
        asked=f"{container.title} of pod {name_of(pod)} {may_use}",
        found=f"it was killed {'at that limit' if limit else 'when its node had no more'} "
        f"(OOMKilled, exit code {ended.get('exitCode')}{_restarted(container)})",
        fix="use a smaller batch size, max_length or model, or a node with more memory",
        is_final=_is_over(pod, container),
    )


def diagnose_program(pod: Seen, container: ContainerFacts, log_tail: str) -> Diagnosis | None:
    """What the program said of its end (GPU, disk); None when it said nothing that is known.

    Args: log_tail: the last lines of the container's log.
    """
    ended = container.last_end
    if not ended.get("exitCode") or container.is_ready:
        return None
    lines = f"{ended.get('message') or ''}\n{log_tail}".splitlines()
    for line in reversed(lines):
        if cause := find_cause(_END_CAUSES, line):
            return verdict(
                cause.error,
                asked=f"{container.title} of pod {name_of(pod)} was asked to run",
                found=f"it ended with exit code {ended['exitCode']}{_restarted(container)}: "
                f"{quoted(line)}",
                fix=cause.fix,
                is_final=cause.is_final or _is_over(pod, container),
            )
    return None


def diagnose_crash_loop(pod: Seen, container: ContainerFacts) -> Diagnosis | None:
    """Whether the container ends again and again; final after a few times."""
    if container.waiting.get("reason") != "CrashLoopBackOff":
        return None
    ended = container.last_end
    said = quoted(ended.get("message") or "")
    return verdict(
        ContainerCrashLoopBackOff,
        asked=f"{container.title} of pod {name_of(pod)} was asked to stay up",
        found=f"it ended {_times(max(container.restarts, 1))}, "
        f"the last time with exit code {ended.get('exitCode')}{f': {said}' if said else ''}",
        fix=f"read its last words (kubectl logs {name_of(pod)} -c {container.name} --previous)",
        is_final=_is_over(pod, container),
    )


def diagnose_end(pod: Seen, container: ContainerFacts) -> Diagnosis | None:
    """The failed end of a container that nothing starts again, when nothing better is known."""
    code = container.ended.get("exitCode")
    if not code or (restarts_containers(pod) and phase(pod) != "Failed"):
        return None
    by_signal = {
        _KILLED: " (SIGKILL: something outside of it ended it)",
        _TERMINATED: " (SIGTERM: it was asked to end)",
    }
    said = quoted(container.ended.get("message") or "")
    return verdict(
        ContainerKilled,
        asked=f"{container.title} of pod {name_of(pod)} was asked to run to its end",
        found=f"it ended with exit code {code}{by_signal.get(code, '')}"
        f"{f': {said}' if said else ''}",
        fix=f"read its log (kubectl logs {name_of(pod)} -c {container.name}) and run again",
        is_final=True,
    )


def _is_over(pod: Seen, container: ContainerFacts) -> bool:
    if container.running is not None:
        return False
    return not restarts_containers(pod) or container.restarts >= _HOPELESS_RESTARTS


def _restarted(container: ContainerFacts) -> str:
    return f", started again {_times(container.restarts)}" if container.restarts else ""


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
