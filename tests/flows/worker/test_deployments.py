"""`kaitoflow worker` registers the deployments, as often as it starts."""

import pytest

from tests.flows.worker.conftest import Pool

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    ("flow", "parameter"), [("run_workspace", "workspace"), ("release_workspace", "metadata")]
)
def test_the_flows_are_deployed_by_module_path(shared: Pool, flow: str, parameter: str) -> None:
    route = f"/deployments/name/{flow.replace('_', '-')}/{shared.name}"
    deployment = shared.call("GET", route)
    assert deployment["entrypoint"] == f"flows.{flow}.{flow}"
    assert deployment["work_pool_name"] == shared.name
    assert parameter in deployment["parameter_openapi_schema"]["properties"]


@pytest.mark.slow
def test_the_pool_is_of_the_workers_own_type_and_another_start_changes_nothing(pool: Pool) -> None:
    pool.call("DELETE", f"/work_pools/{pool.name}")
    routes = f"/work_pools/{pool.name}", f"/deployments/name/run-workspace/{pool.name}"
    _ = pool.start_worker().url
    made = [pool.call("GET", route)["id"] for route in routes]
    assert pool.call("GET", routes[0])["type"] == "kaitoflow"
    _ = pool.start_worker().url
    assert [pool.call("GET", route)["id"] for route in routes] == made
