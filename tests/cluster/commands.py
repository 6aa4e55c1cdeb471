"""How the programs of a control plane are called; each keeps what it has in the given folder."""

from pathlib import Path

from tests.cluster.build import tool
from tests.cluster.enclosure import Site
from tests.cluster.ports import free_port

CERTIFICATES = "certificates"
SERVICE_ACCOUNT_KEY = "service-account.key"
TOKENS = "tokens.csv"
_SERVICE_NETWORK = "10.96.0.0/16"
_ISSUER = "https://kubernetes.default.svc.cluster.local"


def etcd(folder: Path, url: str) -> list[str | Path]:
    """Etcd for clients at `url`; what it keeps does not outlive a crash of the machine."""
    peers = f"http://127.0.0.1:{free_port()}"
    return [
        tool("etcd"),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def api_server(folder: Path, site: Site, *, etcd_url: str, port: int) -> list[str | Path]:
    """The API server; in an enclosure its certificate is for localhost too."""
    key = folder / SERVICE_ACCOUNT_KEY
    return [
        tool("kube-apiserver"),
        f"--etcd-servers={etcd_url}",
        f"--bind-address={site.address if site.enclosure is None else '0.0.0.0'}",
        f"--advertise-address={site.address}",
        # A loopback address cannot be the endpoint of a Service.
        f"--endpoint-reconciler-type={'none' if site.enclosure is None else 'lease'}",
        f"--secure-port={port}",
        f"--cert-dir={folder / CERTIFICATES}",
        f"--token-auth-file={folder / TOKENS}",
        "--authorization-mode=Node,RBAC",
        f"--service-account-issuer={_ISSUER}",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        f"--service-cluster-ip-range={_SERVICE_NETWORK}",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
    ]


def controller_manager(folder: Path, site: Site, kubeconfig: Path) -> list[str | Path]:
    """Every controller; on loopback no kubelet is, and silent nodes are kept."""
    grace = "24h" if site.enclosure is None else "40s"
    return [
        tool("kube-controller-manager"),
        f"--kubeconfig={kubeconfig}",
        "--secure-port=0",
        "--leader-elect=false",
        f"--node-monitor-grace-period={grace}",
        f"--root-ca-file={folder / CERTIFICATES / 'apiserver.crt'}",
        f"--service-account-private-key-file={folder / SERVICE_ACCOUNT_KEY}",
    ]


def scheduler(kubeconfig: Path) -> list[str | Path]:
    """The scheduler."""
    return [
        tool("kube-scheduler"),
        f"--kubeconfig={kubeconfig}",
        "--secure-port=0",
        "--leader-elect=false",
    ]
