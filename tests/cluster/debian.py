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
        _run("apt-get", "-qq", *command)


def make_root(folder: Path, *, packages: str) -> None:
    """A small Debian of this machine's release in `folder`, with these packages, comma-separated.

    It comes from where this machine's own packages come from.
    """
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )["VERSION_CODENAME"]
    sites = _run("apt-get", "indextargets", "--format=$(SITE)", f"Codename: {release}").split()
    _run("debootstrap", "--variant=minbase", f"--include={packages}", release, folder, sites[0])
    for archive in (folder / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()


def _run(*command: str | Path) -> str:
    answer = subprocess.run(
        command,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        words = " ".join(map(str, command))
        raise RuntimeError(
            f"a node needs Debian's packages, but {words} said: {answer.stderr or answer.stdout}; "
            "run it by hand"
        )
    return answer.stdout
