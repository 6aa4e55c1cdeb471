"""What the run's form in Prefect's UI takes."""

import pytest
from prefect.exceptions import ParameterTypeError

from flows.collect_garbage import collect_garbage
from flows.release_workspace import release_workspace
from flows.restore_workspace import restore_workspace
from flows.run_workspace import run_workspace
from flows.stop_workspace import stop_workspace
from flows.worker.deployments import with_namespaces
from tasks.contract.errors import NamespaceNotServed
from tasks.settings import Settings
from tests.builders import tuning_workspace


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_there_is_not_is_refused(port: int) -> None:
    with pytest.raises(ParameterTypeError, match="port"):
        run_workspace.validate_parameters({"workspace": tuning_workspace(), "port": port})


def test_the_form_says_which_ports_there_are() -> None:
    either = run_workspace.parameters.properties["port"]["anyOf"]
    assert {"type": "integer", "minimum": 0, "maximum": 65535} in either


def test_the_form_offers_the_namespaces_that_are_served_and_the_flow_s_own_stays() -> None:
    form = with_namespaces(run_workspace.parameters, ("team-a", "team-b"))
    field = form.definitions["ObjectMeta"]["properties"]["namespace"]
    assert (field["enum"], field["default"]) == (["team-a", "team-b"], "team-a")
    own = run_workspace.parameters.definitions["ObjectMeta"]["properties"]["namespace"]
    assert "enum" not in own


def test_a_form_that_asks_for_no_namespace_stays_as_it_is() -> None:
    assert with_namespaces(collect_garbage.parameters, ("a",)) == collect_garbage.parameters


async def test_no_flow_touches_a_namespace_that_is_not_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = Settings(platform="kubernetes", namespaces=("team-a",))
    monkeypatch.setattr("flows.served.settings", lambda: served)
    workspace = tuning_workspace()
    with pytest.raises(NamespaceNotServed, match="runs those of team-a alone; name one of these"):
        await run_workspace.fn(workspace)
    for flow in (release_workspace, restore_workspace, stop_workspace):
        with pytest.raises(NamespaceNotServed):
            await flow.fn(workspace.metadata)
