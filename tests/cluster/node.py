"""A real Kubernetes node in an enclosure: containerd, kubelet and kube-proxy, as root.

Its network is one cable to the cluster's machine; its images come from the tests' registry.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from tests.cluster import cgroups, node_config
from tests.cluster.build import tool
from tests.cluster.control_plane import ControlPlane
from tests.cluster.enclosure import Enclosure, Site, running_enclosure
from tests.cluster.program import Program

BRIDGE = "nodes"
KUBE_PROXY_USER = "system:kube-proxy"
_CONTAINERD_LIMIT_S = 60.0
_READY_LIMIT_S = 120.0


@dataclass(frozen=True)
class NodePlan:
    """A node to start: the `index`-th of its cluster, from 1, with these labels."""

    name: str
    index: int
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    gpus: int = 0

    @property
    def user(self) -> str:
        return f"system:node:{self.name}"

    @property
    def address(self) -> str:
        return f"10.200.0.{10 + self.index}"

    @property
    def pod_network(self) -> str:
        return f"10.244.{self.index}.0/24"


@dataclass(frozen=True)
class Node:
    """A node whose programs run."""

    plan: NodePlan
    enclosure: Enclosure
    containerd: Program
    kubelet: Program
    kube_proxy: Program

    def ctr(self, *arguments: str) -> str:
        """What containerd's own client prints of what pods use."""
        address = f"--address={node_config.CONTAINERD_SOCKET}"
        return self.enclosure.run("ctr", address, "--namespace=k8s.io", *arguments)


@contextmanager
def running_node(
    folder: Path,
    plan: NodePlan,
    *,
    control_plane: ControlPlane,
    machine: Site,
    registries: Path,
    pause_image: str,
) -> Iterator[Node]:
    """A node that is Ready; it keeps everything in `folder`.

    Args: machine: where the control plane is, and the other end of the node's cable.
    registries: see `node_config.containerd`.
    """
    folder.mkdir(parents=True)
    with ExitStack() as running:
        cgroup = running.enter_context(cgroups.removed_at_the_end(plan.name))
        enclosure = running.enter_context(running_enclosure(plan.name, folder))
        _lay_cable(enclosure, plan, machine)
        _mount(enclosure, folder)
        _configure(folder, plan, control_plane, machine, cgroup, registries, pause_image)
        node = Node(
            plan,
            enclosure,
            *(
                Program(name, enclosure.command(*command), folder / f"{name}.log")
                for name, command in _commands(folder, plan, control_plane).items()
            ),
        )
        for program in (node.containerd, node.kubelet, node.kube_proxy):
            running.callback(program.kill)
        have_running(node, control_plane)
        yield node


def have_running(node: Node, control_plane: ControlPlane) -> None:
    """Have the node Ready, as planned, whichever of its programs do not run, or do no more."""
    for program in (node.containerd, node.kubelet, node.kube_proxy):
        if program.pid is None:
            program.start()
        if program is node.containerd:
            program.wait_until(lambda: _answers(node), limit_s=_CONTAINERD_LIMIT_S)
    _wait_until_ready(node, control_plane)
    claim_gpus(node.plan.name, node.plan.gpus, control_plane)


def _lay_cable(enclosure: Enclosure, plan: NodePlan, machine: Site) -> None:
    assert machine.enclosure is not None
    there, cable = machine.enclosure, f"to-{plan.name}"
    there.ip("link", "add", cable, "type", "veth", "peer", "eth0", "netns", enclosure.pid)
    there.ip("link", "set", cable, "master", BRIDGE, "up")
    there.ip("route", "add", plan.pod_network, "via", plan.address)
    enclosure.ip("address", "add", f"{plan.address}/24", "dev", "eth0")
    enclosure.ip("link", "set", "eth0", "up")
    enclosure.ip("route", "add", "default", "via", machine.address)
    enclosure.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")


def _mount(enclosure: Enclosure, folder: Path) -> None:
    """Give the node files of its own where its programs expect them, and a kernel to tune."""
    for name in ("lib", "log"):
        (folder / "var" / name).mkdir(parents=True)
        enclosure.run("mount", "--bind", folder / "var" / name, f"/var/{name}")
    enclosure.run("mount", "-t", "tmpfs", "tmpfs", "/run")
    if Path("/sys/fs/cgroup/unified").is_mount():  # crun wants control groups of one version
        enclosure.run("umount", "/sys/fs/cgroup/unified")
    for name, value in node_config.KERNEL_TUNABLES.items():
        tunable = folder / "kernel" / name
        tunable.parent.mkdir(parents=True, exist_ok=True)
        tunable.write_text(f"{value}\n")
        enclosure.run("mount", "--bind", tunable, f"/proc/sys/{name}")


def _configure(
    folder: Path,
    plan: NodePlan,
    control_plane: ControlPlane,
    machine: Site,
    cgroup: str,
    registries: Path,
    pause_image: str,
) -> None:
    network = folder / "cni" / "pods.conflist"
    network.parent.mkdir()
    network.write_text(node_config.cni(plan.pod_network))
    resolv_conf = folder / "resolv.conf"
    resolv_conf.write_text(f"nameserver {machine.address}\n")
    (folder / "containerd.toml").write_text(
        node_config.containerd(
            pause_image=pause_image,
            runtime=Path("/usr/bin/crun"),
            registries=registries,
            cni=network.parent,
        )
    )
    (folder / "kubelet.json").write_text(
        node_config.kubelet(cgroup=cgroup, dns=machine.address, resolv_conf=resolv_conf)
    )
    (folder / "kube-proxy.json").write_text(
        node_config.kube_proxy(control_plane.component_kubeconfig(KUBE_PROXY_USER))
    )


def _commands(
    folder: Path, plan: NodePlan, control_plane: ControlPlane
) -> dict[str, list[str | Path]]:
    labels = ",".join(f"{key}={value}" for key, value in plan.labels.items())
    return {
        "containerd": ["containerd", f"--config={folder / 'containerd.toml'}"],
        "kubelet": [
            tool("kubelet"),
            f"--config={folder / 'kubelet.json'}",
            f"--kubeconfig={control_plane.component_kubeconfig(plan.user)}",
            f"--hostname-override={plan.name}",
            f"--node-ip={plan.address}",
            f"--node-labels={labels}",
        ],
        "kube-proxy": [
            tool("kube-proxy"),
            f"--config={folder / 'kube-proxy.json'}",
            f"--hostname-override={plan.name}",
        ],
    }


def _answers(node: Node) -> bool:
    try:
        node.ctr("version")
    except RuntimeError:
        return False
    return True


def _wait_until_ready(node: Node, control_plane: ControlPlane) -> None:
    """A kubelet that ends is started again, as by systemd: containerd answers before its CRI."""

    def ready() -> bool:
        if node.kubelet.pid is None:
            node.kubelet.start()
        path = "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        try:
            return control_plane.kubectl("get", "node", node.plan.name, path) == "True"
        except RuntimeError:
            return False

    node.containerd.wait_until(ready, limit_s=_READY_LIMIT_S)


def claim_gpus(node: str, gpus: int, control_plane: ControlPlane) -> None:
    """Let the node offer GPUs, as a device plugin would; a container that asks gets none."""
    capacity = {"status": {"capacity": {"nvidia.com/gpu": str(gpus)}}}
    named = ("patch", "node", node, "--subresource=status", "--type=merge")
    control_plane.kubectl(*named, "--patch", json.dumps(capacity))
