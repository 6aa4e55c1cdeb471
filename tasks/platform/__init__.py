"""Where pods run. `current_platform` is the one that the settings name."""

import functools

from tasks.platform.local import LocalPlatform
from tasks.settings import settings


@functools.cache
def current_platform() -> LocalPlatform:
    """The platform of this process."""
    return LocalPlatform(settings())
