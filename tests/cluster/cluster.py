"""A whole Kubernetes cluster on this machine, as root, that nothing outside of it notices.

The control plane runs in one enclosure, each node in one of its own, with cables between them. The
registry and whatever else a test serves stay on this machine's loopback, and are exposed.

Run as `python -m tests.cluster.cluster FOLDER` to have one until Ctrl-C.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import images
from tests.cluster.control_plane import ADMIN, ControlPlane, running_control_plane
from tests.cluster.dns import running_dns
from tests.cluster.enclosure import Enclosure, Site, forwarded, running_enclosure
from tests.cluster.node import BRIDGE, KUBE_PROXY_USER, Node, NodePlan, running_node
from tests.cluster.ports import free_port
from tests.cluster.registry import RunningRegistry, running_registry

ADDRESS = "10.200.0.1"
NODES = (
    NodePlan("cpu", 1),
    NodePlan(
        "gpu",
        2,
        labels={"node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4"},
        gpus=1,
    ),
)
_REGISTRIES = "registries"


@dataclass(frozen=True)
class Cluster:
    """A cluster whose nodes are Ready."""

    control_plane: ControlPlane
    registry: RunningRegistry
    _images: RunningRegistry
    nodes: list[Node]
    _machine: Site
    _folder: Path
    _running: ExitStack = field(repr=False)

    def expose(self, host: str) -> str:
        """The HOST:PORT by which nodes and pods reach what listens on this loopback HOST:PORT."""
        inside = _seen_inside(host)
        assert self._machine.enclosure is not None
        there, here = (self._machine.enclosure.pid, inside), (os.getpid(), host)
        self._running.enter_context(
            forwarded(f"to-{host}", listen=there, connect=here, folder=self._folder)
        )
        return inside

    def reach(self, address: str) -> str:
        """A loopback HOST:PORT that leads to `address`, HOST:PORT of a Service or a pod."""
        here = f"127.0.0.1:{free_port()}"
        self._running.enter_context(
            forwarded(
                f"to-{address}",
                listen=(os.getpid(), here),
                connect=(self.nodes[0].enclosure.pid, address),
                folder=self._folder,
            )
        )
        return here

    def image(self, name: str) -> str:
        """The name by which nodes pull an image of `tests.cluster.images`."""
        return f"{_seen_inside(self._images.host)}/{name}"

    def trust_registry(self, registry: RunningRegistry) -> str:
        """The name by which nodes pull, and pods push, images of a registry on loopback."""
        host = self.expose(registry.host)
        _write_hosts(self._folder, host)
        return host


@contextmanager
def running_cluster(folder: Path, plans: Sequence[NodePlan] = NODES) -> Iterator[Cluster]:
    """A cluster with these nodes; it keeps everything in `folder`, which has to be new.

    Raises: RuntimeError: this machine cannot have one, or a part does not start.
    """
    images.build()
    folder.mkdir(parents=True)
    with ExitStack() as running:
        machine = running.enter_context(running_enclosure("machine", folder))
        _lay_bridge(machine)
        site = Site(ADDRESS, machine)
        users = {KUBE_PROXY_USER: ""} | {plan.user: "system:nodes" for plan in plans}
        control_plane = running.enter_context(
            running_control_plane(
                folder / "control-plane", controllers=True, site=site, users=users
            )
        )
        names = control_plane.component_kubeconfig(ADMIN)
        running.enter_context(running_dns(folder, site, kubeconfig=names))
        registry = running.enter_context(running_registry(folder / "registry"))
        own_images = running.enter_context(running_registry(images.FOLDER))
        cluster = Cluster(control_plane, registry, own_images, [], site, folder, running)
        for each in (registry, own_images):
            cluster.trust_registry(each)
        for plan in plans:
            node = running_node(
                folder / plan.name,
                plan,
                control_plane=control_plane,
                machine=site,
                registries=folder / _REGISTRIES,
                pause_image=cluster.image(images.pause()),
            )
            cluster.nodes.append(running.enter_context(node))
        yield cluster


def _seen_inside(host: str) -> str:
    return f"{ADDRESS}:{host.rpartition(':')[2]}"


def _lay_bridge(machine: Enclosure) -> None:
    machine.ip("link", "add", BRIDGE, "type", "bridge")
    machine.ip("address", "add", f"{ADDRESS}/24", "dev", BRIDGE)
    machine.ip("link", "set", BRIDGE, "up")
    machine.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")


def _write_hosts(folder: Path, host: str) -> None:
    hosts = folder / _REGISTRIES / host / "hosts.toml"
    hosts.parent.mkdir(parents=True, exist_ok=True)
    hosts.write_text(f'server = "http://{host}"\n[host."http://{host}"]\n')


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    with running_cluster(folder) as cluster:
        sys.stdout.write(f"export KUBECONFIG={cluster.control_plane.kubeconfig}\n")
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    _main()
