"""Prefect's server is away while a Workspace is tuned and another is applied: both end Ready.

A minute, since that is what shorter outages do not show: Prefect's client by itself tries again
for about 62 s, the watcher fails several looks in a row, and the server's own start comes on top.
"""

import time
from collections.abc import Iterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.ports import free_port
from tests.flows.watcher.conftest import installation, new_namespace
from tests.flows.watcher.installation import Installation, workspace_manifest
from tests.flows.worker.test_outage import Server

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

AWAY_S = 60.0
# Its client asks ever less often; the seventh time after 102 s more.
LONGEST_PAUSE_S = 240.0


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server for this test alone."""
    made = Server(tmp_path_factory.mktemp("prefect"), free_port())
    made.start()
    yield made
    if made.process and made.process.poll() is None:
        made.kill()


@pytest.fixture
def installed(
    control_plane: ControlPlane,  # builds the programs, or skips
    server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("kaitoflow"), server.api) as made:
        made.start_worker()
        made.start("watcher")
        yield made


def test_a_run_and_a_new_workspace_outlive_it(
    installed: Installation, workspace_namespace: str, server: Server
) -> None:
    tuning, later = workspace_namespace, new_namespace(installed)
    installed.node.held.add((tuning, "tune"))
    installed.apply(workspace_manifest(tuning))
    installed.wait_until_started(tuning, "tune")
    server.kill()
    back_s = time.monotonic() + AWAY_S
    installed.apply(workspace_manifest(later))
    installed.node.held.clear()
    installed.wait_until_started(tuning, "push-image")  # the pod needs nobody to go on
    time.sleep(max(0, back_s - time.monotonic()))
    server.start()
    installed.expect_one_run(tuning, limit_s=LONGEST_PAUSE_S)
    installed.expect_one_run(later, limit_s=LONGEST_PAUSE_S)
