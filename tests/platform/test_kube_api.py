"""What an API server says reaches a person without what says nothing of the object."""

import json

from tasks.platform.kube_api import _refused

_LEFT_OUT = (
    '<nil>: Invalid value: "null": some validation rules were not checked because the object was '
    "invalid; correct the existing errors to complete validation"
)


def test_of_a_refusal_only_the_faults_are_told() -> None:
    fault = 'Workspace.kaito.sh "a" is invalid: [resource.count: Invalid value: 0: too small'
    for ending in (f", {_LEFT_OUT}]", f", {_LEFT_OUT.replace(chr(34), '')}]"):
        content = json.dumps({"message": fault + ending}).encode()
        error = _refused("PATCH", "workspaces/a", 422, content)
        assert error.said == f"{fault}]"
