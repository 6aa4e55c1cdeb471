"""What a docker config.json says about one registry. Read anew each time, never logged."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tasks.contract.errors import RegistryDenied
from tasks.contract.image_reference import DEFAULT_REGISTRY, Reference

_DOCKER_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True)
class Credentials:
    """A password, or a token that is traded for one; repr shows neither."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def read_credentials(docker_config: Path | None, reference: Reference) -> Credentials | None:
    """The credentials for the reference's registry; None = there are none for it.

    Of several entries the one with the longest matching path wins, as for kubelet: `host`,
    `host/team`, `*.example.com`, `https://host/v1/`.
    Raises: RegistryDenied: the file is absent or unreadable.
    """
    if docker_config is None:
        return None
    auths = _read_auths(docker_config)
    image = f"{reference.registry}/{reference.repository}"
    matching = [key for key in auths if _covers(key, image)]
    if not matching:
        return None
    return _decode(auths[max(matching, key=lambda key: len(_path(key)))], docker_config)


def describe_credentials(docker_config: Path | None, reference: Reference) -> str:
    """Who the registry was told is asking, and what to do when it said no."""
    if docker_config is None:
        return "no credentials were given; name a secret with a login for it"
    credentials = read_credentials(docker_config, reference)
    if credentials is None:
        found = ", ".join(sorted(_read_auths(docker_config))) or "none"
        return (
            f"{docker_config} has no login for {reference.registry} (found: {found}); add one with "
            "kubectl create secret docker-registry (credential helpers do not run here)"
        )
    who = f'the user "{credentials.username}"' if credentials.username else "the token"
    return f"{who} from {docker_config} may not; check the password and what it is allowed to do"


def _read_auths(docker_config: Path) -> Mapping[str, Mapping[str, Any]]:
    try:
        content = json.loads(docker_config.read_bytes())
    except OSError as error:
        raise RegistryDenied(
            f"the registry's credentials should be in {docker_config}",
            f"it cannot be read ({error.strerror})",
            "mount a secret of type kubernetes.io/dockerconfigjson there",
        ) from error
    except ValueError as error:
        raise _malformed(docker_config, f"it is not JSON ({error})") from None
    auths = content.get("auths", {}) if isinstance(content, dict) else None
    if not isinstance(auths, dict) or not all(isinstance(one, dict) for one in auths.values()):
        raise _malformed(docker_config, 'its "auths" is no object of objects')
    return auths


def _path(key: str) -> str:
    """The host/path of an entry, without scheme and without the API version older dockers wrote."""
    path = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    return path.removesuffix("/v1").removesuffix("/v2")


def _covers(key: str, image: str) -> bool:
    host, _, path = _path(key).partition("/")
    image_host, _, repository = image.partition("/")
    if image_host == DEFAULT_REGISTRY and host in _DOCKER_HUB_NAMES:
        host = DEFAULT_REGISTRY
    return _fits(image_host, host) and (not path or f"{repository}/".startswith(f"{path}/"))


def _fits(host: str, pattern: str) -> bool:
    """Whether a host is meant, label for label as kubelet compares: a star stays inside its label.

    Else `*.example.com` would give its password to `a.b.example.com` too.
    """
    labels, wanted = host.split("."), pattern.split(".")
    return len(labels) == len(wanted) and all(map(fnmatchcase, labels, wanted))


def _decode(entry: Mapping[str, Any], docker_config: Path) -> Credentials | None:
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if entry.get("auth"):
        try:
            decoded = base64.b64decode(_padded(str(entry["auth"])), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _malformed(docker_config, 'an "auth" in it is not base64') from None
        username, _, password = decoded.rstrip("\0").partition(":")
    token = str(entry.get("identitytoken", ""))
    return Credentials(username, password, token) if password or token else None


def _padded(encoded: str) -> str:
    """Add the padding that some tools leave out, and docker itself takes either way."""
    return encoded + "=" * (-len(encoded) % 4)


def _malformed(docker_config: Path, found: str) -> RegistryDenied:
    return RegistryDenied(
        f"the registry's credentials are read from {docker_config}",
        f"{found}",
        "make the secret anew with kubectl create secret docker-registry",
    )
