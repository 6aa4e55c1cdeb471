import json
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from tasks.contract.errors import (
    ImageReferenceInvalid,
    RegistryDenied,
    RegistryUnavailable,
    TagTaken,
)
from tasks.contract.image_reference import parse_push_reference
from tasks.contract.programs.image import PushConfig
from tasks.image.pod.push import open_for_push, push_image
from tests.cluster.registry import RunningRegistry, docker_config
from tests.image.builders import PATIENCE_S, push_config, read_blob, write_adapter
from tests.image.faulty import IDENTITY_TOKEN, Fault, faulty_registry

# The tools may have to be built first, once, which is not the test's time.
pytestmark = [pytest.mark.registry, pytest.mark.timeout(60, func_only=True)]

BLOBS = "/blobs/sha256:"
UPLOADS = "/blobs/uploads/"
MANIFESTS = "/manifests/"


def served_digest(url: str, name: str, tag: str = "v1") -> str:
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    with httpx2.Client(trust_env=False) as client:
        answer = client.head(f"{url}/v2/{name}/manifests/{tag}", headers=accept)
    return answer.headers["Docker-Content-Digest"]


def test_a_pushed_image_is_what_the_registry_serves(
    registry: RunningRegistry, adapter: Path, name: str
) -> None:
    result = push_image(push_config(adapter, f"{registry.host}/{name}:v1"))
    assert result.digest == served_digest(registry.url, name)
    assert result.reference == f"{registry.host}/{name}:v1"
    assert result.pushed is True
    assert result.bytes == result.uploaded_bytes


def test_a_checkpoint_goes_once_its_image_is_there(
    registry: RunningRegistry, adapter: Path, name: str
) -> None:
    image = f"{registry.host}/{name}:v1"
    push_image(push_config(adapter, f"{image}.checkpoint"))
    served_digest(registry.url, name, "v1.checkpoint")
    other = write_adapter(adapter.with_name("trained"), seed=1)
    push_image(push_config(other, image, checkpoint=f"{image}.checkpoint"))
    served_digest(registry.url, name)
    with pytest.raises(KeyError):
        served_digest(registry.url, name, "v1.checkpoint")


def test_a_candidate_is_pushed_over_no_other_and_over_itself_again(
    registry: RunningRegistry, adapter: Path, name: str
) -> None:
    image = f"{registry.host}/{name}:v1-g2"
    first = push_image(push_config(adapter, image, candidate_of="one"))
    assert first.annotations["io.kaitoflow.candidate-of"] == "one"
    again = write_adapter(adapter.with_name("again"), seed=1)
    with pytest.raises(TagTaken, match="takes the next number"):
        push_image(push_config(again, image, candidate_of="two"))
    assert served_digest(registry.url, name, "v1-g2") == first.digest
    pushed = push_image(push_config(again, image, candidate_of="one"))
    assert served_digest(registry.url, name, "v1-g2") == pushed.digest != first.digest


def test_an_image_that_is_kept_only_is_not_pushed(adapter: Path) -> None:
    result = push_image(push_config(adapter, "nowhere.invalid/phi:v1", push=False))
    assert (result.pushed, result.uploaded_bytes) == (False, 0)


def test_crane_finds_the_image_valid_and_kaitos_files_in_it(
    registry: RunningRegistry, adapter: Path, crane: Path, name: str
) -> None:
    reference = f"{registry.host}/{name}:v1"
    layout_dir = push_config(adapter, reference).layout_dir
    digest = push_image(push_config(adapter, reference)).digest
    subprocess.run([crane, "validate", "--remote", reference], check=True, capture_output=True)
    manifest = subprocess.run([crane, "manifest", reference], check=True, capture_output=True)
    assert manifest.stdout == read_blob(layout_dir, digest)
    assert json.loads(manifest.stdout)["annotations"]["sh.kaito.model.name"] == "phi-3"
    exported = subprocess.run([crane, "export", reference, "-"], check=True, capture_output=True)
    listed = subprocess.run(["tar", "t"], input=exported.stdout, check=True, capture_output=True)
    files = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    assert listed.stdout.decode().split() == ["data", *(f"data/{file}" for file in files)]


def test_pushing_what_is_there_sends_nothing(
    registry: RunningRegistry, adapter: Path, name: str
) -> None:
    with faulty_registry(registry.host) as proxy:
        config = push_config(adapter, f"{proxy.host}/{name}:v1")
        push_image(config)
        proxy.requests.clear()
        again = push_image(config)
    assert (again.uploaded_bytes, again.pushed) == (0, True)
    assert [one.split()[0] for one in proxy.requests] == ["HEAD"]


def test_another_tag_of_the_same_weights_sends_no_weights(
    registry: RunningRegistry, adapter: Path, name: str
) -> None:
    push_image(push_config(adapter, f"{registry.host}/{name}:v1"))
    result = push_image(push_config(adapter, f"{registry.host}/{name}:v2"))
    manifest = read_blob(adapter.parent / "layout", result.digest)
    assert result.uploaded_bytes == len(manifest)


def test_a_tag_moves_to_new_weights(registry: RunningRegistry, tmp_path: Path, name: str) -> None:
    reference = f"{registry.host}/{name}:v1"
    push_image(push_config(write_adapter(tmp_path / "old", seed=1), reference))
    new = push_image(push_config(write_adapter(tmp_path / "new", seed=2), reference))
    assert served_digest(registry.url, name) == new.digest


def test_a_password_opens_a_private_registry(
    private_registry: RunningRegistry, adapter: Path, login: Path, name: str
) -> None:
    reference = f"{private_registry.host}/{name}:v1"
    assert push_image(push_config(adapter, reference, docker_config=login)).pushed


def test_no_password_or_a_wrong_one_is_refused_at_once(
    private_registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    config = push_config(adapter, f"{private_registry.host}/{name}:v1")
    with pytest.raises(RegistryDenied, match=r"refused it \(401 .*no credentials were given; name"):
        push_image(config)
    wrong = tmp_path / "wrong.json"
    wrong.write_text(docker_config(private_registry.host, password="wrong"))
    with pytest.raises(RegistryDenied, match=r'the user "kaito" from .*check the password'):
        push_image(replace(config, docker_config=wrong))


def test_a_corrected_password_is_noticed_while_waiting(
    private_registry: RunningRegistry,
    adapter: Path,
    login: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = login.read_text()
    login.write_text(docker_config(private_registry.host, password="wrong"))
    monkeypatch.setattr("time.sleep", lambda _seconds: login.write_text(right))
    reference = f"{private_registry.host}/{name}:v1"
    config = push_config(adapter, reference, docker_config=login, denied_patience_s=5)
    assert push_image(config).pushed


@pytest.mark.parametrize("status", [500, 502, 503, 408])
@pytest.mark.parametrize(("method", "path"), [("POST", UPLOADS), ("PUT", UPLOADS)])
def test_a_registry_that_stumbles_is_tried_again(
    registry: RunningRegistry, tmp_path: Path, name: str, status: int, method: str, path: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", seed=status)
    with faulty_registry(registry.host, Fault(method, path, status=status)) as proxy:
        assert push_image(push_config(adapter, f"{proxy.host}/{name}:v1")).pushed
    assert proxy.count(method, path) == 3  # the broken one, the layer, the config


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", MANIFESTS, status=503),
        Fault("PUT", MANIFESTS, drop=True),
        Fault("HEAD", MANIFESTS, drop=True),
        Fault("PUT", UPLOADS, drop=True),
        Fault("PUT", UPLOADS, status=404, body='{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}'),
        Fault("HEAD", BLOBS, status=500),
        Fault("GET", MANIFESTS, status=500),
    ],
    ids=lambda fault: f"{fault.method}-{fault.path.split('/')[1]}-{fault.status}",
)
def test_no_broken_request_breaks_a_push(
    registry: RunningRegistry, adapter: Path, name: str, fault: Fault
) -> None:
    with faulty_registry(registry.host, replace(fault)) as proxy:
        result = push_image(push_config(adapter, f"{proxy.host}/{name}:v1"))
        assert result.pushed
        assert proxy.faults[0].times == 0


def test_a_registry_that_says_how_long_to_wait_is_obeyed(
    registry: RunningRegistry, adapter: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = Fault("POST", UPLOADS, status=429, headers={"Retry-After": "1"})
    with faulty_registry(registry.host, fault) as proxy:
        assert push_image(push_config(adapter, f"{proxy.host}/{name}:v1")).pushed
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    waits = [event for event in events if event["phase"] == "wait"]
    assert [(wait["seconds"], wait["reason"]) for wait in waits] == [(1.0, "RegistryUnavailable")]


def test_a_wait_beyond_patience_is_not_begun(
    registry: RunningRegistry, adapter: Path, name: str
) -> None:
    fault = Fault("POST", UPLOADS, status=429, headers={"Retry-After": "600"})
    with (
        faulty_registry(registry.host, fault) as proxy,
        pytest.raises(RegistryUnavailable, match="429 Too Many Requests; check that"),
    ):
        push_image(push_config(adapter, f"{proxy.host}/{name}:v1"))


def test_a_registry_that_stays_broken_is_given_up(
    registry: RunningRegistry, adapter: Path, name: str
) -> None:
    fault = Fault("PUT", UPLOADS, times=99, body='{"errors": [{"code": "X", "message": "disk"}]}')
    with (
        faulty_registry(registry.host, fault) as proxy,
        pytest.raises(
            RegistryUnavailable, match=r"failed; 503 X: disk; check that http://.* reached"
        ),
    ):
        push_image(push_config(adapter, f"{proxy.host}/{name}:v1", patience_s=0.5))
    assert 1 < proxy.count("PUT", UPLOADS) < 5


def test_a_registry_that_is_not_there_is_told(adapter: Path) -> None:
    with pytest.raises(RegistryUnavailable, match=r"pushing to 127\.0\.0\.1:1/phi:v1 failed; .*"):
        push_image(push_config(adapter, "127.0.0.1:1/phi:v1", patience_s=0.1))


def test_a_refusal_tells_what_a_new_run_goes_on_from_where_the_pod_s_disk_goes(
    private_registry: RunningRegistry, adapter: Path
) -> None:
    config = push_config(adapter, f"{private_registry.host}/kept:v1")
    for checkpoint, told in (("r.example.com/kept:v1.checkpoint", True), ("", False)):
        with pytest.raises(RegistryDenied) as refusal:
            push_image(replace(config, checkpoint=checkpoint))
        assert ("goes on from r.example.com/kept:v1.checkpoint" in refusal.value.fix) is told


def test_a_registry_that_refuses_a_tag_is_told_in_its_words(
    registry: RunningRegistry, adapter: Path, name: str
) -> None:
    body = '{"errors": [{"code": "TAG_INVALID", "message": "tag is immutable"}]}'
    with (
        faulty_registry(registry.host, Fault("PUT", MANIFESTS, status=409, body=body)) as proxy,
        pytest.raises(
            ImageReferenceInvalid, match="409 TAG_INVALID: tag is immutable; use another"
        ),
    ):
        push_image(push_config(adapter, f"{proxy.host}/{name}:v1"))


def test_a_tag_that_somebody_else_moved_meanwhile_is_told(
    registry: RunningRegistry, adapter: Path, name: str
) -> None:
    with (
        faulty_registry(registry.host, Fault("GET", MANIFESTS, status=200, body="{}")) as proxy,
        pytest.raises(RegistryUnavailable, match=r"the registry serves sha256:.*; see who else"),
    ):
        push_image(push_config(adapter, f"{proxy.host}/{name}:v1"))


def test_a_token_service_is_asked_with_the_password(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    with faulty_registry(registry.host, login="kaito:opensesame") as proxy:
        config = tmp_path / "config.json"
        config.write_text(docker_config(proxy.host))
        result = push_image(push_config(adapter, f"{proxy.host}/{name}:v1", docker_config=config))
        assert result.pushed
    assert proxy.token_scopes == [[f"repository:{name}:pull,push", "repository:any:pull"]]


def test_an_identity_token_is_traded_for_an_access_token(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    with faulty_registry(registry.host, login="kaito:opensesame") as proxy:
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"auths": {proxy.host: {"identitytoken": IDENTITY_TOKEN}}}))
        result = push_image(push_config(adapter, f"{proxy.host}/{name}:v1", docker_config=config))
        assert result.pushed


def test_a_token_that_expires_in_the_middle_is_renewed(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    with faulty_registry(registry.host, login="kaito:opensesame") as proxy:
        proxy.token_uses.append(3)  # the next one is the PUT of the layer
        config = tmp_path / "config.json"
        config.write_text(docker_config(proxy.host))
        result = push_image(push_config(adapter, f"{proxy.host}/{name}:v1", docker_config=config))
        assert result.pushed
    assert proxy.serial == 2


def test_a_token_service_that_refuses_is_told(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    with faulty_registry(registry.host, login="kaito:another") as proxy:
        config = tmp_path / "config.json"
        config.write_text(docker_config(proxy.host))
        with pytest.raises(RegistryDenied, match=r'the user "kaito" .* may not'):
            push_image(push_config(adapter, f"{proxy.host}/{name}:v1", docker_config=config))


def test_a_broken_token_service_is_tried_again(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    faults = Fault("GET", "/token"), Fault("GET", "/token", status=200, body="{}")
    with faulty_registry(registry.host, *faults, login="kaito:opensesame") as proxy:
        config = tmp_path / "config.json"
        config.write_text(docker_config(proxy.host))
        result = push_image(push_config(adapter, f"{proxy.host}/{name}:v1", docker_config=config))
        assert result.pushed


def test_the_password_goes_nowhere_but_to_the_registry(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    """An upload that is sent elsewhere, as clouds do, goes there without it."""
    with faulty_registry(registry.host, login="kaito:opensesame") as elsewhere:
        away = {"Location": f"http://{elsewhere.host}/v2/{name}/blobs/uploads/1?_state=x%3D"}
        fault = Fault("POST", UPLOADS, status=202, headers=away)
        config = tmp_path / "config.json"
        with faulty_registry(registry.host, fault, login="kaito:opensesame") as proxy:
            config.write_text(docker_config(proxy.host))
            push = push_config(adapter, f"{proxy.host}/{name}:v1", docker_config=config)
            with pytest.raises(RegistryDenied):
                push_image(replace(push, patience_s=0))
    assert elsewhere.requests[0].startswith(f"PUT /v2/{name}/blobs/uploads/1?_state=x%3D&digest=")
    assert len(elsewhere.requests) == 1


def check_push_access(config: PushConfig) -> None:
    with open_for_push(config, parse_push_reference(config.reference)) as repository:
        repository.check_push()


def test_plain_http_is_spoken_to_registries_named_insecure_and_no_others(adapter: Path) -> None:
    config = push_config(adapter, "registry.invalid:5000/phi:v1", patience_s=0)
    with pytest.raises(RegistryUnavailable, match=r"that https://registry\.invalid:5000 can be"):
        check_push_access(config)
    with pytest.raises(RegistryUnavailable, match=r"that http://registry\.invalid:5000 can be"):
        check_push_access(replace(config, insecure=("registry.invalid:5000",)))


def test_the_check_leaves_nothing_behind(
    registry: RunningRegistry, adapter: Path, name: str
) -> None:
    with faulty_registry(registry.host) as proxy:
        check_push_access(push_config(adapter, f"{proxy.host}/{name}:v1"))
    methods = [one.split()[0] for one in proxy.requests]
    assert methods == ["POST", "DELETE"]
    assert proxy.count("DELETE", UPLOADS) == 1


def test_the_check_needs_no_adapter_yet(registry: RunningRegistry, tmp_path: Path) -> None:
    check_push_access(push_config(tmp_path / "absent", f"{registry.host}/phi:v1"))


def test_the_check_says_what_the_push_would_say(
    private_registry: RunningRegistry, adapter: Path
) -> None:
    with pytest.raises(RegistryDenied, match=r"refused it \(401 UNAUTHORIZED: authentication req"):
        check_push_access(push_config(adapter, f"{private_registry.host}/phi:v1"))
    with pytest.raises(ImageReferenceInvalid, match="placeholder"):
        check_push_access(push_config(adapter, "ACR_REPO_HERE.azurecr.io/phi:v1"))
    with pytest.raises(RegistryUnavailable, match="check that"):
        check_push_access(push_config(adapter, "127.0.0.1:1/phi:v1", patience_s=0))


def test_a_large_layer_is_not_held_in_memory(
    registry: RunningRegistry, tmp_path: Path, name: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", weights_bytes=24 * 2**20)
    tracemalloc.start()
    push_image(push_config(adapter, f"{registry.host}/{name}:v1", patience_s=PATIENCE_S))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8 * 2**20
