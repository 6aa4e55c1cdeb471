"""Kubeconfig files for the tests' control plane."""

import json
from pathlib import Path


def write_kubeconfig(
    path: Path, *, server: str, ca_file: Path, token: str, namespace: str = "default"
) -> Path:
    """A kubeconfig at `path` that speaks to `server` as the bearer of `token`."""
    name = "kaitoflow-tests"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority": str(ca_file)}}
        ],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}
        ],
        "current-context": name,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2))  # JSON is YAML
    return path
