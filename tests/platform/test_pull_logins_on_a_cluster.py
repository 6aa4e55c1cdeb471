"""The logins of a dataset's image are read from the Secrets that the Workspace names."""

import base64
from typing import Any

import pytest

from tasks.contract.workspace import parse_workspace
from tasks.platform.kube_api import KubeApi
from tasks.platform.kubernetes import KubernetesPlatform
from tests.builders import tuning_manifest
from tests.platform.test_ownership_on_a_cluster import platform, reachable

__all__ = ["platform", "reachable"]

pytestmark = pytest.mark.cluster

LOGIN = b'{"auths": {"r.io": {"auth": "YTpi"}}}'


async def make(api: KubeApi, namespace: str, name: str, **secret: Any) -> None:
    manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}} | secret
    await api.create("Secret", namespace, manifest)


async def test_a_secret_that_is_gone_or_is_no_login_is_left_out(
    platform: KubernetesPlatform, namespace: str
) -> None:
    api = await platform.api()
    content = {".dockerconfigjson": base64.b64encode(LOGIN).decode()}
    await make(api, namespace, "login", type="kubernetes.io/dockerconfigjson", data=content)
    await make(api, namespace, "none", stringData={"password": "opensesame"})
    source = {"image": "r.io/rows:1", "imagePullSecrets": ["gone", "none", "login"]}
    manifest = tuning_manifest(input=source)
    manifest["metadata"]["namespace"] = namespace
    workspace = parse_workspace(manifest, source="test")
    assert await platform.pull_logins(workspace) == [LOGIN]
