"""What is served, kept as a ControllerRevision: the Workspace as it was, and what it was made into.

From it the server gets back what it loses once the Workspace itself asks for something else. Pure.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.manifests.serving import revision_of
from tasks.platform.wire import Object, Seen, name_of

REVISION = "ControllerRevision"
_DIGEST_CHARS = 8
_PULLED = re.compile(r"@(sha256:[0-9a-f]{64})")


def served_revision(workspace: Workspace, manifests: Sequence[Object]) -> Object:
    """The object that keeps a Workspace, without its secrets, and what its server is made of.

    What it keeps never changes, which the API server sees to: another server has another name.
    """
    kept = workspace.redacted().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    kept |= {"apiVersion": workspace.api_version, "kind": workspace.kind}
    data: dict[str, Any] = {"workspace": kept, "objects": [*manifests]}
    text = json.dumps(data, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]
    return revision_of(workspace, digest, data)


def served_workspace(revision: Seen) -> Workspace:
    """The Workspace that a revision keeps, in the generation that is served."""
    return parse_workspace(dict(revision["data"]["workspace"]), source=name_of(revision))


def served_objects(revision: Seen) -> list[Object]:
    """What its server is made of, as it was applied."""
    return [dict(each) for each in revision["data"]["objects"]]


def served_images(revision: Seen) -> frozenset[str]:
    """Digests of the images that its server pulls its adapters from."""
    config_maps = [each for each in served_objects(revision) if each["kind"] == "ConfigMap"]
    told = [text for each in config_maps for text in each["data"].values()]
    return frozenset(digest for text in told for digest in _PULLED.findall(text))
