"""Programs of a node that come from Debian: installed once, by root, where they are missing."""

import os
import shutil
import subprocess
from pathlib import Path

# What has to be there -> the package that brings it.
_PACKAGES = {
    "/usr/bin/containerd": "containerd",
    "/usr/bin/crun": "crun",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "/usr/sbin/conntrack": "conntrack",
    "/usr/sbin/debootstrap": "debootstrap",
    "/usr/sbin/ip": "iproute2",
    "/usr/sbin/iptables": "iptables",
    "/usr/bin/buildah": "buildah",
    "/usr/bin/skopeo": "skopeo",
}


def install_missing() -> None:
    """Install what a node needs and this machine lacks.

    Raises: RuntimeError: this is not root, or no Debian, or apt-get fails; says what to do.
    """
    missing = sorted(package for path, package in _PACKAGES.items() if not Path(path).exists())
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(
            "a node needs root and Debian's packages (found: "
            f"user {os.geteuid()}, missing {', '.join(missing) or 'no package'}); "
            "run as root on Debian"
        )
    if not missing:
        return
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        answer = subprocess.run(
            ["apt-get", "-qq", *command],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            raise RuntimeError(
                f"a node needs {', '.join(missing)}, but apt-get said: {answer.stderr}; "
                "install them by hand"
            )
