"""`--push` sends the image to a registry that asks for a password, with a Secret of the file."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.build import tool
from tests.cluster.registry import docker_config, running_registry
from tests.flows.conftest import Installation, write_workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def with_registry(path: Path, host: str, config: str) -> Path:
    """The Workspace's file, its image in the registry and its push Secret beside it."""
    manifest, config_map = yaml.safe_load_all(path.read_text())
    manifest["tuning"]["output"]["image"] = f"{host}/adapters/pushed:1"
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "push"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config},
    }
    path.write_text(yaml.safe_dump_all([manifest, config_map, secret]))
    return path


def test_the_image_is_pushed_with_the_secret_of_the_file(
    installation: Installation, tmp_path: Path
) -> None:
    path = write_workspace(installation.home, "pushed", rows=16, training={}, split=1)
    with running_registry(tmp_path / "registry", auth=True) as registry:
        config = docker_config(registry.host)
        ended = installation.kaitoflow(
            "run", str(with_registry(path, registry.host, config)), "--push"
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        (tmp_path / "config.json").write_text(config)
        image = f"{registry.host}/adapters/pushed:1"
        digest = subprocess.run(
            [tool("crane"), "digest", image],
            check=True,
            capture_output=True,
            text=True,
            env={"DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)},
        ).stdout.strip()
    status = installation.object("pushed")["status"]["image"]
    assert (status["digest"], status["pushed"]) == (digest, True)
    assert "opensesame" not in json.dumps(installation.object("pushed"))
