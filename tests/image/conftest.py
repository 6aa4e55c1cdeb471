"""What the tests of the image programs share: a registry with and one without passwords."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.build import tool
from tests.cluster.registry import RunningRegistry, docker_config, running_registry
from tests.image.builders import write_adapter


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """The distribution registry, open to all."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """The distribution registry behind a password."""
    with running_registry(tmp_path_factory.mktemp("private"), auth=True) as running:
        yield running


@pytest.fixture
def login(private_registry: RunningRegistry, tmp_path: Path) -> Path:
    """A docker config.json that the private registry accepts."""
    path = tmp_path / "config.json"
    path.write_text(docker_config(private_registry.host))
    return path


@pytest.fixture(scope="session")
def crane() -> Path:
    """A second OCI client, which judges what ours wrote."""
    return tool("crane")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter's folder."""
    return write_adapter(tmp_path / "adapter")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A repository of the test's own."""
    words = request.node.name.partition("[")[0].removeprefix("test_").lower()
    return f"{words}/{uuid.uuid4().hex[:8]}"
