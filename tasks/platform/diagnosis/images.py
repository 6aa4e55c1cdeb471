"""Why an image cannot be pulled: told from the words of kubelet and containerd."""

import re
from collections.abc import Sequence

from tasks.contract.errors import DiskFull, ImagePullError, RegistryUnavailable
from tasks.platform.diagnosis.facts import ContainerFacts
from tasks.platform.diagnosis.verdict import Cause, Diagnosis, find_cause, quoted, verdict
from tasks.platform.wire import Seen, name_of

_WAITS = frozenset(
    {
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
# The same story told by each layer on the way up; what is left is what the registry said.
_WRAPPERS = re.compile(
    r"(?:Back-off pulling image \"[^\"]*\"(?:: )?|ErrImagePull: |rpc error: code = \w+ desc = "
    r"|Failed to pull image \"[^\"]*\": "
    r"|failed to (?:pull and unpack image|resolve reference|do request)(?: \"[^\"]*\")?: )+"
)
# In this order: the first whose words are found. Network words stand before credentials, because
# a registry's token server that cannot be reached is reported as a failed authorisation.
_CAUSES = (
    Cause(
        words=r"no space left on device",
        meaning="the node's disk is full",
        fix="take a node with a larger disk, or remove images and pods from this one",
        error=DiskFull,
        is_final=False,
    ),
    Cause(
        error=ImagePullError,
        words=r"server gave HTTP response to HTTPS client",
        meaning="the registry speaks plain http and the node insists on https",
        fix="serve the registry over TLS, or allow http for it in containerd's hosts.toml "
        "on every node",
    ),
    Cause(
        error=ImagePullError,
        words=r"x509:|tls: failed to verify certificate",
        meaning="the node does not trust the registry's certificate",
        fix="give the registry a certificate of a known authority, or add its authority to "
        "containerd's hosts.toml on every node",
    ),
    Cause(
        words=r"no such host",
        meaning="the registry's name cannot be resolved from the node",
        fix="correct the registry's name in the image, or the node's DNS",
        error=RegistryUnavailable,
        is_final=False,
    ),
    Cause(
        words=r"toomanyrequests|429 Too Many Requests|pull QPS exceeded",
        meaning="the registry limits how often this node may pull",
        fix="wait, pull with credentials, or mirror the image to a registry of your own",
        error=RegistryUnavailable,
        is_final=False,
    ),
    Cause(
        words=r"i/o timeout|TLS handshake timeout|context deadline exceeded|connection refused"
        r"|connection reset|no route to host|network is unreachable|\bEOF\b"
        r"|50[0234] (?:Internal|Bad|Service|Gateway)|registry is unavailable",
        meaning="the registry does not answer the node",
        fix="check that the registry runs and that nodes reach it (firewall, proxy, DNS)",
        error=RegistryUnavailable,
        is_final=False,
    ),
    Cause(
        error=ImagePullError,
        words=r"no match for platform",
        meaning="the image was built for another kind of processor than the node has",
        fix="build the image for the node's platform too, such as linux/amd64",
    ),
    Cause(
        error=ImagePullError,
        words=r"401 Unauthorized|403 Forbidden|\bunauthorized\b|\bdenied\b|insufficient_scope"
        r"|authorization failed|no basic auth credentials",
        meaning="the registry refuses the node's credentials, or hides that there is no such "
        "repository",
        fix="give a docker-config Secret that may pull it as imagePullSecret, "
        "and check the repository's name",
    ),
    Cause(
        error=ImagePullError,
        words=r"not found|manifest unknown|name unknown|MANIFEST_UNKNOWN|NAME_UNKNOWN",
        meaning="the registry has no such image",
        fix="correct the image's name and tag, or push the image",
    ),
)
_BY_REASON = {
    "InvalidImageName": Cause(
        error=ImagePullError,
        meaning="that is no image name",
        fix="write registry/repository:tag in lower case, or registry/repository@sha256:digest",
    ),
    "ErrImageNeverPull": Cause(
        error=ImagePullError,
        meaning="the node does not have it and imagePullPolicy is Never",
        fix="load the image on the node, or set imagePullPolicy to IfNotPresent",
    ),
    "SignatureValidationFailed": Cause(
        error=ImagePullError,
        meaning="the image's signature does not hold",
        fix="sign the image, or correct the node's signature policy",
    ),
}
_UNKNOWN = Cause(
    error=ImagePullError,
    meaning="the pull fails",
    fix="try the pull on the node (crictl pull IMAGE)",
    is_final=False,
)


def diagnose_image(
    pod: Seen, container: ContainerFacts, warnings: Sequence[Seen]
) -> Diagnosis | None:
    """Why the container's image is not there; None unless a pull has failed.

    Args: warnings: the pod's events, for kubelets that do not repeat the cause while they wait.
    """
    reason = container.waiting.get("reason")
    if reason not in _WAITS:
        return None
    raw = container.waiting.get("message") or ""
    said = _WRAPPERS.sub("", raw) or _last_failure(container.image, warnings)
    cause = _BY_REASON.get(reason) or find_cause(_CAUSES, said) or _UNKNOWN
    hint = _missing_pull_secret(warnings) if cause.error is ImagePullError else ""
    return verdict(
        cause.error,
        asked=f"{container.title} of pod {name_of(pod)} asks for image {container.image}",
        found=f"{cause.meaning}{f' ({quoted(said)})' if said else ''}{hint}",
        fix=cause.fix,
        is_final=cause.is_final,
    )


def _last_failure(image: str, warnings: Sequence[Seen]) -> str:
    start = f'Failed to pull image "{image}"'
    said = (str(event.get("message") or "") for event in warnings)
    return next((_WRAPPERS.sub("", text) for text in said if text.startswith(start)), "")


def _missing_pull_secret(warnings: Sequence[Seen]) -> str:
    for event in warnings:
        if event.get("reason") == "FailedToRetrieveImagePullSecret":
            named = re.search(r"\(([^)]*)\)", event.get("message") or "")
            return f", and there is no Secret {named[1]} to pull with" if named else ""
    return ""
