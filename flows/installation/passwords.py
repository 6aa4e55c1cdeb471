"""The passwords of an installation: each is made once, and from then on left as it is.

Not by the chart's templates: rendered without a cluster, as Argo CD renders them, they would hold
another password each time.
"""

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tasks.contract.errors import InvalidSettings, Refused
from tasks.platform.kube_api import KubeApi
from tasks.platform.wire import Object

_LETTERS = string.ascii_letters + string.digits
_CHARS = 32


class PasswordNotFound(Refused):
    """A Secret of the installation is there without the key that it should have."""


@dataclass(frozen=True)
class Password:
    """Where a password is kept; with a user as user:password, as who logs in by both is told."""

    secret: str
    key: str
    user: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The password that SECRET/KEY or SECRET/KEY=USER means.

        Raises: InvalidSettings: it is neither.
        """
        place, _, user = text.partition("=")
        secret, _, key = place.partition("/")
        if not secret or not key:
            raise InvalidSettings(
                f"a password {text!r} was asked for",
                "it does not say where it is kept",
                "write SECRET/KEY, or SECRET/KEY=USER",
            )
        return cls(secret, key, user)


async def make_passwords(
    api: KubeApi, namespace: str, passwords: Sequence[Password]
) -> dict[str, bool]:
    """Have a Secret for each password; whether it was made now, by the Secret's name.

    Raises: PasswordNotFound: a Secret is there without its key.
    """
    return {each.secret: await _made(api, namespace, each) for each in passwords}


async def _made(api: KubeApi, namespace: str, password: Password) -> bool:
    found = await api.get("Secret", namespace, password.secret)
    if found is None:
        if await api.create("Secret", namespace, _manifest(namespace, password)) is not None:
            return True
        found = await api.get("Secret", namespace, password.secret)  # somebody was faster
    if password.key not in ((found or {}).get("data") or {}):
        raise PasswordNotFound(
            f"Secret {namespace}/{password.secret} was to hold the key {password.key}",
            "the Secret is there without it",
            "add the key, or delete the Secret to have it made anew",
        )
    return False


def _manifest(namespace: str, password: Password) -> Object:
    """No label by which Helm or Argo CD would take it for theirs, and remove it one day."""
    word = "".join(secrets.choice(_LETTERS) for _ in range(_CHARS))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": password.secret,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "kaitoflow"},
        },
        "type": "Opaque",
        "stringData": {password.key: f"{password.user}:{word}" if password.user else word},
    }
