"""`kaitoflow worker` registers the deployments, as often as it starts."""

import pytest

from tests.flows.worker.conftest import Pool

pytestmark = pytest.mark.timeout(240)


def test_the_run_of_a_workspace_is_deployed_by_module_path(shared: Pool) -> None:
    deployment = shared.call("GET", f"/deployments/name/run-workspace/{shared.name}")
    assert deployment["entrypoint"] == "flows.run_workspace.run_workspace"
    assert deployment["work_pool_name"] == shared.name
    assert "workspace" in deployment["parameter_openapi_schema"]["properties"]


def test_the_pool_is_of_the_workers_own_type(pool: Pool) -> None:
    pool.call("DELETE", f"/work_pools/{pool.name}")
    _ = pool.start_worker().url
    assert pool.call("GET", f"/work_pools/{pool.name}")["type"] == "kaitoflow"


def test_another_start_changes_no_deployment(pool: Pool) -> None:
    route = f"/deployments/name/run-workspace/{pool.name}"
    _ = pool.start_worker().url
    first = pool.call("GET", route)
    _ = pool.start_worker().url
    assert pool.call("GET", route)["id"] == first["id"]
