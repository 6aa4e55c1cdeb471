"""The Workspaces that a command line looks at: on this machine, or on a cluster.

`base.py` is the seam, `local.py` and `cluster.py` stand behind it. Nothing heavy is imported until
one of them is opened.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from flows.places.base import Objects


@dataclass(frozen=True)
class Place:
    """Where Workspaces are looked for."""

    platform: Literal["local", "kubernetes"] | None = None
    """This machine or a cluster; KAITOFLOW_PLATFORM, else local, when left away."""

    context: str | None = None
    """The cluster's context in the kubeconfig; the current one when left away."""


@contextlib.contextmanager
def open_objects(place: Place) -> Iterator["Objects"]:
    """The Workspaces of a place, as long as the context lasts."""
    from tasks.settings import settings

    # Who names a context means a cluster.
    platform = place.platform or ("kubernetes" if place.context else settings().platform)
    if platform == "local":
        from flows.places.local import LocalObjects

        yield LocalObjects()
        return
    from flows.places.cluster import ClusterObjects

    with contextlib.closing(ClusterObjects(settings(), context=place.context)) as objects:
        yield objects
