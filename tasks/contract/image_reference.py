"""Image names: what a person wrote, checked and in full. Pure; the control side calls it as well.

The grammar is the one of docker and of the OCI distribution specification.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from tasks.contract.errors import ImageReferenceInvalid

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
NAME_MAX_CHARS = 255
TAG_MAX_CHARS = 128

_PLACEHOLDER = re.compile(r"\b[A-Z][A-Z0-9_]*_HERE\b|<[^<>]*>")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_REGISTRY = re.compile(
    r"(?:\[[0-9a-fA-F:]+\]"
    r"|[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)"
    r"(?::[0-9]{1,5})?"
)
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """One image name in full; `tag` is "" only where a digest names the image."""

    registry: str
    repository: str
    tag: str
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def target(self) -> str:
        """What the registry is asked for: the digest where there is one, else the tag."""
        return self.digest or self.tag

    @property
    def is_loopback(self) -> bool:
        """Whether the registry runs on this machine, where plain http is safe."""
        host = urlsplit(f"//{self.registry}").hostname or ""
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def parse_reference(text: str) -> Reference:
    """The full image name that `text` stands for, as docker reads it.

    Raises: ImageReferenceInvalid: a placeholder, a scheme, capitals, or anything else no registry
    takes; the message says which part and how to write it.
    """
    _refuse_obvious_mistakes(text)
    name, _, digest = text.partition("@")
    if "@" in text and not is_digest(digest):
        raise _invalid(text, f'"{digest}" is no digest', "write @sha256: and 64 hex digits")
    registry, rest = _split_registry(name)
    repository, colon, tag = rest.partition(":")
    if colon:
        _check_tag(text, tag)
    _check_registry(text, registry)
    _check_repository(text, registry, repository)
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    return Reference(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest or None)


def parse_push_reference(text: str) -> Reference:
    """Parse the name of what is written to, as parse_reference does: a digest cannot be chosen."""
    reference = parse_reference(text)
    if reference.digest:
        raise _invalid(
            text, "it ends in a digest, which follows from the content", "push to a tag, like :v1"
        )
    return reference


def checkpoint_image(image: str) -> str:
    """The name under which the checkpoints of the run that makes an image are kept beside it.

    Raises: ImageReferenceInvalid: the image's own name is none.
    """
    reference, ending = parse_push_reference(image), ".checkpoint"
    tag = reference.tag[: TAG_MAX_CHARS - len(ending)] + ending
    return f"{reference.registry}/{reference.repository}:{tag}"


def model_image(registry: str, model: str, revision: str) -> str:
    """The name that a base model has in a registry, or below a path of it, in full.

    Args: model, revision: as the hub has them; what no registry takes in a name becomes `-`.
    Raises: ImageReferenceInvalid: the registry is none.
    """
    parts = (part for part in model.lower().split("/") if part)
    named = "/".join(
        part
        if re.fullmatch(_PATH_COMPONENT, part)
        else re.sub(r"[^a-z0-9]+", "-", part).strip("-") or "model"
        for part in parts
    )
    tag = re.sub(r"[^A-Za-z0-9_.-]", "-", revision).lstrip("-.")[:TAG_MAX_CHARS]
    return str(parse_push_reference(f"{registry.rstrip('/')}/{named}:{tag}"))


def is_digest(text: str) -> bool:
    """Whether `text` is a digest as images have them: `sha256:` and 64 hex digits."""
    return bool(_DIGEST.fullmatch(text))


def _refuse_obvious_mistakes(text: str) -> None:
    if not text:
        raise _invalid(text, "it is empty", "write registry/repository:tag")
    if placeholder := _PLACEHOLDER.search(text):
        raise _invalid(
            text,
            f'it still has the placeholder "{placeholder[0]}"',
            "put your registry and image name there",
        )
    if re.search(r"\s", text):
        raise _invalid(text, "it has a space in it", "remove the space")
    if scheme := _SCHEME.match(text):
        raise _invalid(
            text, f'it begins with "{scheme[0]}"', f"write it as {text.removeprefix(scheme[0])}"
        )


def _split_registry(name: str) -> tuple[str, str]:
    """The first part is a registry if it has a dot or a port, or is localhost.

    Docker also takes a first part with capitals for a host; here it is a repository, so that
    `MyTeam/adapter` is answered with its lower-case name and not with a failed DNS lookup.
    """
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return DEFAULT_REGISTRY, name
    # An older name of docker.io, still found in configuration files.
    return (DEFAULT_REGISTRY if first == "index.docker.io" else first), rest


def _check_registry(text: str, registry: str) -> None:
    if not _REGISTRY.fullmatch(registry):
        raise _invalid(text, f'"{registry}" is no host name', "write host or host:port")


def _check_repository(text: str, registry: str, repository: str) -> None:
    if _REPOSITORY.fullmatch(repository):
        if len(registry) + 1 + len(repository) > NAME_MAX_CHARS:
            raise _invalid(text, f"it is over {NAME_MAX_CHARS} characters long", "shorten it")
        return
    if not repository:
        raise _invalid(text, "it names no repository", "write registry/repository:tag")
    if _REPOSITORY.fullmatch(repository.lower()):
        fixed = text.replace(repository, repository.lower(), 1)
        raise _invalid(text, f'"{repository}" has upper-case letters', f"write it as {fixed}")
    raise _invalid(
        text,
        f'"{repository}" is no repository name',
        "use lower-case letters, digits, single dots, dashes and underscores, parted by /",
    )


def _check_tag(text: str, tag: str) -> None:
    if not tag:
        raise _invalid(text, "the tag after the colon is empty", "write one, like :v1")
    if len(tag) > TAG_MAX_CHARS:
        found = f"the tag has {len(tag)} characters"
        raise _invalid(text, found, f"shorten it to at most {TAG_MAX_CHARS}")
    if not _TAG.fullmatch(tag):
        raise _invalid(
            text, f'"{tag}" is no tag', "use letters, digits, dots, dashes and underscores"
        )


def _invalid(text: str, found: str, fix: str) -> ImageReferenceInvalid:
    return ImageReferenceInvalid(
        f'the image name "{text}" cannot be used',
        f"{found}",
        f"{fix}",
    )
