"""What the run's form in Prefect's UI takes."""

import pytest
from prefect.exceptions import ParameterTypeError

from flows.run_workspace import run_workspace
from tests.builders import tuning_workspace


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_there_is_not_is_refused(port: int) -> None:
    with pytest.raises(ParameterTypeError, match="port"):
        run_workspace.validate_parameters({"workspace": tuning_workspace(), "port": port})


def test_the_form_says_which_ports_there_are() -> None:
    either = run_workspace.parameters.properties["port"]["anyOf"]
    assert {"type": "integer", "minimum": 0, "maximum": 65535} in either
