"""What a Workspace names and what of it cannot be used: Secrets and volume claims. Pure.

Told before anything is bought; a pod would wait for it on a node that is paid for.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.contract.errors import KaitoflowError, SecretUnusable, VolumeUnusable
from tasks.contract.workspace import Workspace
from tasks.platform.diagnosis.verdict import Diagnosis, verdict
from tasks.platform.wire import Seen

DOCKER_CONFIG_KEY, TOKEN_KEY, ADMIN_KEY = ".dockerconfigjson", "HF_TOKEN", "key"
JUDGE_KEY = "key"
_HASHED = "sha256:"
_DOCKER_FIX = "make it anew: kubectl create secret docker-registry NAME --docker-server=..."
_TOKEN_FIX = f"make it anew: kubectl create secret generic NAME --from-literal={TOKEN_KEY}=hf_..."

# (kind, name) and what is wrong with it.
Faults = Mapping[tuple[str, str], Diagnosis]


def docker_config_of(secret: Seen) -> bytes:
    """The docker config in a Secret's manifest.

    Raises: SecretUnusable: it has none, or none that can be read.
    """
    content = _value(secret, DOCKER_CONFIG_KEY, fix=_DOCKER_FIX)
    try:
        config = json.loads(content)
    except ValueError:
        config = None
    auths = config.get("auths", {}) if isinstance(config, dict) else None
    if not isinstance(auths, dict):
        raise _unusable(secret, f"its {DOCKER_CONFIG_KEY} is no JSON with auths", fix=_DOCKER_FIX)
    return content


def token_of(secret: Seen) -> str:
    """The hub's token in a Secret's manifest.

    Raises: SecretUnusable: it has none, or one that no request can carry.
    """
    token = _value(secret, TOKEN_KEY, fix=_TOKEN_FIX).decode(errors="replace")
    if not token or token != token.strip() or not token.isprintable():
        found = "is empty" if not token.strip() else "has spaces, line breaks or the like in it"
        raise _unusable(secret, f"its {TOKEN_KEY} {found}", fix=_TOKEN_FIX)
    return token


def admin_key_in(secret: Seen | None) -> str:
    """The first key of a server's admin endpoints that a Secret tells; empty where it tells none.

    Of keys that are only there as their SHA-256 nobody can say which they are.
    """
    try:
        text = _value(secret, ADMIN_KEY, fix="").decode(errors="replace") if secret else ""
    except SecretUnusable:
        return ""
    return next((each for each in text.split() if not each.startswith(_HASHED)), "")


def judge_key_in(secret: Seen | None) -> str:
    """The key that a judge asks for, from its Secret; empty where it tells none."""
    try:
        return _value(secret, JUDGE_KEY, fix="").decode(errors="replace").strip() if secret else ""
    except SecretUnusable:
        return ""


def _value(secret: Seen, key: str, *, fix: str) -> bytes:
    texts, encoded = secret.get("stringData") or {}, secret.get("data") or {}
    if key in texts:
        return str(texts[key]).encode()
    if key not in encoded:
        keys = ", ".join(sorted({*texts, *encoded})) or "nothing"
        kind = secret.get("type") or "Opaque"
        raise _unusable(secret, f"it has no key {key} (type {kind}, with {keys})", fix=fix)
    try:
        return base64.b64decode("".join(str(encoded[key]).split()), validate=True)
    except (binascii.Error, ValueError):
        raise _unusable(secret, f"its data {key} is no base64", fix=fix) from None


def _unusable(secret: Seen, found: str, *, fix: str) -> SecretUnusable:
    name = str(secret["metadata"]["name"])
    return SecretUnusable(f"Secret {name!r} was named", found, fix.replace("NAME", name))


def secret_faults(workspace: Workspace, secrets: Mapping[str, Seen | None]) -> Faults:
    """What is wrong with the Secrets that are there.

    Args: secrets: by name; None = there is none, which is another check's to tell.
    """
    hub = workspace.preset.preset_options.model_access_secret if workspace.preset else None
    faults = {}
    for name, secret in secrets.items():
        if secret is None or name not in workspace.secret_names:
            continue
        try:
            (token_of if name == hub else docker_config_of)(secret)
        except SecretUnusable as error:
            faults["Secret", name] = _fault(error)
    return faults


def claims_of(workspace: Workspace) -> dict[str, bool]:
    """The volume claims that the Workspace names, and whether its pods write into them."""
    found: dict[str, bool] = {}
    for source, is_written in _volume_sources(workspace):
        if name := (source.get("persistentVolumeClaim") or {}).get("claimName"):
            found[name] = found.get(name, False) or is_written
    return found


def _volume_sources(workspace: Workspace) -> Iterator[tuple[Mapping[str, Any], bool]]:
    if workspace.tuning:
        yield workspace.tuning.input.volume_source or {}, False
        yield workspace.tuning.output.volume_source or {}, True
    if workspace.inference:
        for adapter in workspace.inference.adapters:
            yield adapter.source.volume_source or {}, False
        spec = (workspace.inference.template or {}).get("spec") or {}
        for volume in spec.get("volumes") or ():
            yield volume, False


def volume_faults(workspace: Workspace, claims: Mapping[str, Seen | None]) -> Faults:
    """What is wrong with the volume claims that are named.

    Args: claims: by name; None = there is none.
    """
    faults: dict[tuple[str, str], Diagnosis] = {}
    for name, is_written in claims_of(workspace).items():
        if name not in claims:
            continue
        if fault := _claim_fault(workspace, name, claims[name], is_written=is_written):
            faults["PersistentVolumeClaim", name] = fault
    output = workspace.tuning.output.volume_source if workspace.tuning else None
    written = (output or {}).get("persistentVolumeClaim") or {}
    if written.get("readOnly"):
        error = VolumeUnusable(
            f"tuning.output.volumeSource names claim {written.get('claimName')!r}",
            "it is mounted read-only, and the adapter is written into it",
            "leave readOnly out",
        )
        faults["PersistentVolumeClaim", str(written.get("claimName"))] = _fault(error)
    return faults


def _claim_fault(
    workspace: Workspace, name: str, claim: Seen | None, *, is_written: bool
) -> Diagnosis | None:
    asked = f"PersistentVolumeClaim {name!r} was named"
    if claim is None:
        found = f"namespace {workspace.metadata.namespace} has none of that name"
        return _fault(VolumeUnusable(asked, found, "create it there, or name another"))
    phase = (claim.get("status") or {}).get("phase")
    modes = (claim.get("spec") or {}).get("accessModes") or ()
    if "deletionTimestamp" in claim["metadata"] or phase == "Lost":
        found = "its volume is lost" if phase == "Lost" else "it is being deleted"
        return _fault(VolumeUnusable(asked, found, "make another claim, and name that"))
    if is_written and modes and not {*modes} - {"ReadOnlyMany"}:
        found = "it may only be read (ReadOnlyMany), and the adapter is written into it"
        return _fault(VolumeUnusable(asked, found, "name a claim that may be written"))
    shared = {"ReadWriteMany"} if is_written else {"ReadWriteMany", "ReadOnlyMany"}
    nodes = workspace.resource.count
    if workspace.tuning and nodes > 1 and modes and not {*modes} & shared:
        found = f"its access mode is {', '.join(modes)}, and pods on {nodes} nodes mount it at once"
        fix = f"name a claim with {' or '.join(sorted(shared))}, or set resource.count to 1"
        return _fault(VolumeUnusable(asked, found, fix))
    if phase == "Pending":
        found = "it is not bound to a volume yet"
        fix = (
            f"see what it waits for (kubectl describe pvc {name}); a StorageClass that waits for "
            "a first pod binds it then"
        )
        return _fault(VolumeUnusable(asked, found, fix), is_final=False)
    if is_written and workspace.is_served and "ReadWriteOncePod" in modes:
        found = "one pod at a time may use it, and what is served reads what the next tuning writes"
        fix = "use ReadWriteOnce, so that a model can be tuned again while it is served"
        return _fault(VolumeUnusable(asked, found, fix), is_final=False)
    return None


def _fault(error: KaitoflowError, *, is_final: bool = True) -> Diagnosis:
    return verdict(
        type(error), asked=error.asked, found=error.found, fix=error.fix, is_final=is_final
    )
