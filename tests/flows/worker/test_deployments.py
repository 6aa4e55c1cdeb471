"""`kaitoflow worker` registers the deployments, as often as it starts."""

import pytest

from tests.flows.worker.conftest import Pool

pytestmark = pytest.mark.timeout(240)


def test_the_run_of_a_workspace_is_deployed_by_module_path(shared: Pool) -> None:
    deployment = shared.call("GET", f"/deployments/name/run-workspace/{shared.name}")
    assert deployment["entrypoint"] == "flows.run_workspace.run_workspace"
    assert deployment["work_pool_name"] == shared.name
    assert "workspace" in deployment["parameter_openapi_schema"]["properties"]


def test_the_pool_is_of_the_workers_own_type_and_another_start_changes_nothing(pool: Pool) -> None:
    pool.call("DELETE", f"/work_pools/{pool.name}")
    routes = f"/work_pools/{pool.name}", f"/deployments/name/run-workspace/{pool.name}"
    _ = pool.start_worker().url
    made = [pool.call("GET", route)["id"] for route in routes]
    assert pool.call("GET", routes[0])["type"] == "kaitoflow"
    _ = pool.start_worker().url
    assert [pool.call("GET", route)["id"] for route in routes] == made
