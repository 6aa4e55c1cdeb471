"""Where pods run. `current_platform` is the one that the settings name."""

import functools

from tasks.platform.base import Platform
from tasks.platform.local import LocalPlatform
from tasks.settings import settings

# A run outlives a control plane that is restarted, or upgraded.
_RUN_PATIENCE_S = 300.0


@functools.cache
def current_platform() -> Platform:
    """The platform of this process."""
    if settings().platform == "local":
        return local_platform()
    from tasks.platform.kubernetes import KubernetesPlatform

    return KubernetesPlatform(settings(), patience_s=_RUN_PATIENCE_S)


@functools.cache
def local_platform() -> LocalPlatform:
    """The platform of this machine, with the files that it keeps."""
    return LocalPlatform(settings())
