"""Where pods run. `current_platform` is the one that the settings name."""

import functools

from tasks.platform.base import Platform
from tasks.platform.local import LocalPlatform
from tasks.settings import settings


@functools.cache
def current_platform() -> Platform:
    """The platform of this process."""
    if settings().platform == "local":
        return local_platform()
    from tasks.platform.kubernetes import KubernetesPlatform

    return KubernetesPlatform(settings())


@functools.cache
def local_platform() -> LocalPlatform:
    """The platform of this machine, with the files that it keeps."""
    return LocalPlatform(settings())
