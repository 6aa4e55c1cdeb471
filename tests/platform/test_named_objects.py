"""Secrets and volume claims that cannot be used are told before a pod waits for them."""

import base64
from typing import Any

import pytest

from tasks.contract.errors import SecretUnusable
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.named_objects import (
    claims_of,
    docker_config_of,
    secret_faults,
    token_of,
    volume_faults,
)
from tests.builders import tuning_manifest, tuning_workspace

Object = dict[str, Any]
LOGIN = '{"auths": {"registry.example.com": {"auth": "dTpw"}}}'


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secret(data: Object | None = None, **more: Any) -> Object:
    return {"metadata": {"name": "push"}, "data": data or {}, **more}


def login(text: str) -> Object:
    return secret({".dockerconfigjson": encoded(text)})


def token(text: str) -> Object:
    return secret({"HF_TOKEN": encoded(text)})


def test_a_login_is_read_from_data_and_before_it_from_string_data() -> None:
    assert docker_config_of(login(LOGIN)) == LOGIN.encode()
    given = login("{}") | {"stringData": {".dockerconfigjson": LOGIN}}
    assert docker_config_of(given) == LOGIN.encode()


def test_base64_with_line_breaks_is_read_as_the_api_server_reads_it() -> None:
    broken = "\n".join([encoded(LOGIN)[:20], encoded(LOGIN)[20:]])
    assert docker_config_of(secret({".dockerconfigjson": broken})) == LOGIN.encode()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (
            secret({"password": "cA=="}, type="Opaque"),
            "no key .dockerconfigjson (type Opaque",
        ),
        (secret(), "with nothing"),
        (secret({".dockercfg": "e30="}, type="kubernetes.io/dockercfg"), "kubernetes.io/dockercfg"),
        (secret({".dockerconfigjson": "%%%"}), "is no base64"),
        (secret({".dockerconfigjson": "e30"}), "is no base64"),
        (login("user:password"), "is no JSON with auths"),
        (login("[]"), "is no JSON with auths"),
        (login('{"auths": []}'), "is no JSON with auths"),
    ],
)
def test_a_secret_without_a_login_is_refused_with_what_it_has(given: Object, found: str) -> None:
    with pytest.raises(SecretUnusable) as refusal:
        docker_config_of(given)
    assert refusal.value.asked == "Secret 'push' was named"
    assert found in refusal.value.found
    assert "kubectl create secret docker-registry push" in refusal.value.fix


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (secret({"token": "aGY="}), "no key HF_TOKEN"),
        (token(""), "is empty"),
        (token("  \n"), "is empty"),
        (token("hf_abc\n"), "has spaces, line breaks"),
        (token("hf_a\0c"), "has spaces, line breaks"),
    ],
)
def test_a_secret_without_a_token_is_refused(given: Object, found: str) -> None:
    with pytest.raises(SecretUnusable) as refusal:
        token_of(given)
    assert found in refusal.value.found
    assert "hf_abc" not in str(refusal.value)


def test_a_token_is_read() -> None:
    assert token_of(token("hf_abc")) == "hf_abc"


def test_each_secret_is_asked_for_what_it_is_named_for() -> None:
    preset = {"name": "smollm2-135m-instruct", "presetOptions": {"modelAccessSecret": "hub"}}
    workspace = tuning_workspace(preset=preset)
    good = {"push": login(LOGIN), "hub": token("hf_abc"), "other": secret()}
    assert secret_faults(workspace, good) == {}
    swapped = secret_faults(workspace, {"push": token("hf_abc"), "hub": login(LOGIN)})
    assert {(name, fault.reason) for (_, name), fault in swapped.items()} == {
        ("push", "SecretUnusable"),
        ("hub", "SecretUnusable"),
    }
    assert secret_faults(workspace, {"push": None, "hub": None}) == {}


def mounting(claim: str, **more: Any) -> Object:
    return {"volumeSource": {"persistentVolumeClaim": {"claimName": claim, **more}}}


def on_volumes(**output: Any) -> Workspace:
    return tuning_workspace(input=mounting("rows"), output=mounting("kept", **output))


def claim(*modes: str, phase: str = "Bound", **metadata: Any) -> Object:
    return {"metadata": metadata, "spec": {"accessModes": [*modes]}, "status": {"phase": phase}}


def told(workspace: Workspace, **claims: Object | None) -> dict[str, tuple[str, bool]]:
    faults = volume_faults(workspace, claims)
    assert {fault.reason for fault in faults.values()} <= {"VolumeUnusable"}
    return {name: (fault.found, fault.is_final) for (_, name), fault in faults.items()}


def test_claims_are_those_of_data_adapters_and_templates() -> None:
    assert claims_of(on_volumes()) == {"rows": False, "kept": True}
    adapter = {"source": {"name": "a", **mounting("adapter")}, "strength": "1.0"}
    inference = {"preset": {"name": "phi-4"}, "adapters": [adapter]}
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "own"}}
    template = {"spec": {"containers": [], "volumes": [volume, {"name": "e", "emptyDir": {}}]}}
    for wanted, expected in ((inference, "adapter"), ({"template": template}, "own")):
        manifest = {"metadata": {"name": "served"}, "inference": wanted}
        assert claims_of(parse_workspace(manifest, source="test")) == {expected: False}


def test_claims_that_can_be_used_are_not_told() -> None:
    good = {"rows": claim("ReadOnlyMany"), "kept": claim("ReadWriteOnce")}
    assert told(on_volumes(), **good) == {}


@pytest.mark.parametrize(
    ("kept", "found", "is_final"),
    [
        (None, "none of that name", True),
        (claim("ReadOnlyMany"), "may only be read", True),
        (claim("ReadWriteOnce", phase="Lost"), "its volume is lost", True),
        (claim("ReadWriteOnce", deletionTimestamp="now"), "being deleted", True),
        (claim("ReadWriteOnce", phase="Pending"), "not bound", False),
        (claim("ReadWriteOncePod"), "one pod at a time", False),
    ],
)
def test_a_claim_that_cannot_be_used_is_told(
    kept: Object | None, found: str, is_final: bool
) -> None:
    faults = told(on_volumes(), rows=claim("ReadWriteMany"), kept=kept)
    assert [*faults] == ["kept"]
    assert found in faults["kept"][0]
    assert faults["kept"][1] == is_final


def test_a_volume_that_is_written_is_not_mounted_read_only() -> None:
    faults = told(on_volumes(readOnly=True), rows=claim(), kept=claim("ReadWriteOnce"))
    assert "mounted read-only" in faults["kept"][0]


def test_a_claim_that_could_not_be_looked_at_is_not_told() -> None:
    assert told(on_volumes()) == {}


@pytest.mark.parametrize(
    ("where", "mode", "refused"),
    [
        ("output", "ReadWriteOnce", True),
        ("output", "ReadWriteMany", False),
        ("input", "ReadWriteOncePod", True),
        ("input", "ReadOnlyMany", False),
    ],
)
def test_a_volume_of_a_tuning_on_several_nodes_is_one_that_all_can_mount(
    where: str, mode: str, refused: bool
) -> None:
    manifest = tuning_manifest("large")
    manifest["metadata"]["annotations"] = {"kaito.sh/serve": "false"}
    manifest["resource"] = {"count": 2}
    volume = {"volumeSource": {"persistentVolumeClaim": {"claimName": "shared"}}}
    manifest["tuning"] |= {where: volume}
    workspace = parse_workspace(manifest, source="test")
    claim = {"metadata": {"name": "shared"}, "spec": {"accessModes": [mode]}, "status": {}}
    told = volume_faults(workspace, {"shared": claim})
    assert bool(told) is refused
    assert all("set resource.count to 1" in fault.fix and fault.is_final for fault in told.values())
