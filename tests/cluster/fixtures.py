"""Fixtures of the tests' Kubernetes: one for the session, one namespace for each test."""

import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import images
from tests.cluster.build import NotPrepared
from tests.cluster.cluster import NODES, Cluster, running_cluster
from tests.cluster.control_plane import ControlPlane, running_control_plane


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the nodes' images ahead of the tests, whose time-outs a first build would exceed."""
    if session.config.option.collectonly:
        return
    # By what they are, not by their names: other tests call theirs `cluster` too.
    wanted = {
        name
        for item in session.items
        if isinstance(item, pytest.Function)
        for name, definitions in item._fixtureinfo.name2fixturedefs.items()
        if definitions[-1].func.__module__ == __name__
    }
    if "cluster" in wanted:
        _why_not(images.build)
    if "product_images" in wanted:
        _why_not(_build_product)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say what to run before, and nothing else, where a test lacks what is built ahead."""
    report = yield
    if call.excinfo and isinstance(call.excinfo.value, NotPrepared):
        report.longrepr = str(call.excinfo.value)
    return report


def _build_product() -> None:
    images.build(product=True)


def _why_not(build: Callable[[], None]) -> str | None:
    """None once everything is there."""
    try:
        build()
    except RuntimeError as refused:
        return str(refused)
    return None


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A Kubernetes API server with its controllers, and no node; shared: use `namespace`."""
    folder = tmp_path_factory.mktemp("control-plane")
    with running_control_plane(folder, controllers=True) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a node `cpu` and a node `gpu`, whose GPU is only said to be there."""
    if reason := _why_not(images.build):
        pytest.skip(f"a Kubernetes cluster cannot run here: {reason}")
    with running_cluster(tmp_path_factory.mktemp("kubernetes") / "cluster", NODES) as running:
        yield running


@pytest.fixture(scope="session")
def product_images(cluster: Cluster) -> dict[str, str]:
    """The images that the chart names, by the chart's names, as the cluster's nodes pull them."""
    if reason := _why_not(_build_product):
        pytest.skip(f"the product's images cannot be built here: {reason}")
    return {
        "control": cluster.image(images.control()),
        "pod": cluster.image(images.pod()),
        "postgresql": cluster.image(images.postgresql()),
    }


@pytest.fixture
def kubeconfig(control_plane: ControlPlane) -> Path:
    """The administrator's kubeconfig."""
    return control_plane.kubeconfig


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A new namespace of `control_plane` with its default ServiceAccount; deleted at the end."""
    with _new_namespace(control_plane) as name:
        yield name


@pytest.fixture
def cluster_namespace(cluster: Cluster) -> Iterator[str]:
    """The same of `cluster`."""
    with _new_namespace(cluster.control_plane) as name:
        yield name


@contextmanager
def _new_namespace(control_plane: ControlPlane) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    control_plane.kubectl(
        "wait", "--for=create", "serviceaccount/default", "--namespace", name, "--timeout=60s"
    )
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")
