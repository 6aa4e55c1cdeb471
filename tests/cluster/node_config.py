"""What the programs of a node are told. Paths are those inside the node's enclosure."""

import json
from pathlib import Path

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
DNS_DOMAIN = "cluster.local"
POD_NETWORK = "10.244.0.0/16"
CNI_PROGRAMS = Path("/usr/lib/cni")
# What a kubelet wants of the kernel.
KERNEL_TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


def containerd(*, pause_image: str, runtime: Path, registries: Path, cni: Path) -> str:
    """containerd's config.toml; `registries` has a folder with a hosts.toml for each registry."""
    return f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause_image}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PROGRAMS}"
conf_dir = "{cni}"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{registries}"

# Else each layer lies here twice, packed and unpacked.
[plugins."io.containerd.grpc.v1.cri".containerd]
discard_unpacked_layers = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runtime}"
"""


def cni(pod_network: str) -> str:
    """Each pod gets a cable to its node and an address of `pod_network`."""
    network = {
        "type": "ptp",
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": pod_network}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [network, ports]})


def kubelet(*, cgroup: str, dns: str, resolv_conf: Path) -> str:
    """The KubeletConfiguration. Anyone who reaches the kubelet may speak to it: only the tests do.

    Args: cgroup: where all pods are. dns: the address that pods ask for names.
    """
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroup}",
            "clusterDNS": [dns],
            "clusterDomain": DNS_DOMAIN,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "resolvConf": str(resolv_conf),
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        }
    )


def kube_proxy(kubeconfig: Path) -> str:
    """The KubeProxyConfiguration; it leaves the machine's connection tracking as it is."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": POD_NETWORK,
            "mode": "iptables",
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        }
    )
