"""The registries of the images that Workspaces name, asked from here: who answers, and to whom.

Each once, by its host and the login; nothing is uploaded. That a push is allowed is the plan's to
prove, of one Workspace.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.contract.artifacts import Check
from tasks.contract.errors import (
    AddressForbidden,
    ImageReferenceInvalid,
    KaitoflowError,
    RegistryDenied,
    SecretUnusable,
)
from tasks.contract.image_reference import parse_reference
from tasks.contract.workspace import Workspace
from tasks.plan.check import from_error
from tasks.platform.named_objects import docker_config_of
from tasks.platform.wire import Seen
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository

NAME = "registry"
_MOST = 8  # hosts and logins that are asked


@dataclass(frozen=True)
class Named:
    """An image, and the docker Secret that opens its registry; "" = none is named."""

    image: str
    secret: str


def named_images(workspace: Workspace) -> Iterable[Named]:
    """The images that a Workspace reads and writes."""
    if tuning := workspace.tuning:
        if tuning.output.image:
            yield Named(tuning.output.image, workspace.push_secret)
        if tuning.input.image:
            yield Named(tuning.input.image, next(iter(tuning.input.image_pull_secrets), ""))
    for adapter in workspace.inference.adapters if workspace.inference else ():
        if image := adapter.source.image:
            yield Named(image, next(iter(adapter.source.image_pull_secrets), ""))


def look(
    images: Iterable[Named],
    logins: Mapping[str, Seen | None] | None,
    *,
    own: Path | None = None,
    insecure: tuple[str, ...] = (),
) -> list[Check]:
    """A line for each registry and login.

    Args: logins: the Secrets that could be read, None = there is none of that name; those that are
    not among them may not be read. None = docker's own config of this user counts. own: that one.
    """
    checks: list[Check] = []
    asked: set[tuple[str, str]] = set()
    for each in images:
        try:
            host = parse_reference(each.image).registry
        except ImageReferenceInvalid:
            continue  # the Workspace's own plan refuses it
        if (host, each.secret) not in asked and len(asked) < _MOST:
            asked.add((host, each.secret))
            checks.append(_line(each, host, logins, own=own, insecure=insecure))
    return checks


def _line(
    named: Named,
    host: str,
    logins: Mapping[str, Seen | None] | None,
    *,
    own: Path | None,
    insecure: tuple[str, ...],
) -> Check:
    if logins is None:
        told = f"{host} ({'with the login of docker' if own else 'without a login'})"
        return _asked(named, told, own, insecure=insecure, denied="warn")
    if not named.secret or named.secret not in logins:
        told = f"{host} (without a login)"
        return _asked(named, told, None, insecure=insecure, denied="warn")
    told = f"{host} (with Secret {named.secret})"
    secret = logins[named.secret]
    if secret is None:
        fix = f"kubectl create secret docker-registry {named.secret} --docker-server={host} ..."
        return Check(name=NAME, result="fail", detail=f"{told}: the Secret is not there", fix=fix)
    try:
        content = docker_config_of(secret)
    except SecretUnusable as error:
        return from_error(NAME, error, result="fail")
    with tempfile.TemporaryDirectory() as folder:
        login = Path(folder) / "config.json"
        login.write_bytes(content)
        return _asked(named, told, login, insecure=insecure, denied="fail")


def _asked(
    named: Named, told: str, login: Path | None, *, insecure: tuple[str, ...], denied: str
) -> Check:
    """What the registry answers who would pull the image."""
    reference = parse_reference(named.image)
    try:
        with Repository(
            reference, "pull", docker_config=login, insecure=insecure, patience=Patience(0)
        ) as repository:
            there = repository.manifest_digest()
    except RegistryDenied as error:
        return from_error(NAME, _within(told, error), result=denied)
    except AddressForbidden as error:
        return from_error(NAME, _within(told, error), result="warn")
    except KaitoflowError as error:
        check = from_error(NAME, _within(told, error), result="warn")
        return check.model_copy(update={"fix": f"{check.fix}; pods may reach it all the same"})
    has = "has" if there else "has not yet"
    return Check(name=NAME, result="ok", detail=f"{told} answers, and {has} {reference}")


def _within(told: str, error: KaitoflowError) -> KaitoflowError:
    return type(error)(f"{told}: {error.asked}", error.found, error.fix)


def secrets_of(images: Sequence[Named]) -> list[str]:
    """The Secrets that the images name, each once."""
    return list(dict.fromkeys(each.secret for each in images if each.secret))
