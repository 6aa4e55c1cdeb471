"""Where nodes come from. `current_provisioner` is the one that the settings name."""

from tasks.nodes.byo import ByoProvisioner
from tasks.nodes.local import LocalProvisioner
from tasks.nodes.provisioner import Provisioner
from tasks.platform import current_platform, local_platform
from tasks.settings import settings


def current_provisioner() -> Provisioner:
    """The provisioner of this process."""
    default = "local" if settings().platform == "local" else "byo"
    if (settings().provisioner or default) == "local":
        return LocalProvisioner(local_platform().node)
    from tasks.platform.kubernetes import KubernetesPlatform

    platform = current_platform()
    assert isinstance(platform, KubernetesPlatform)
    return ByoProvisioner(platform.list_nodes, timeout_s=settings().node_ready_timeout_s)
