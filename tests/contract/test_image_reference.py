import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contract.errors import ImageReferenceInvalid
from tasks.contract.image_reference import (
    Reference,
    checkpoint_image,
    model_image,
    parse_push_reference,
    parse_reference,
)

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("phi", "docker.io/library/phi:latest"),
        ("team/phi:v1", "docker.io/team/phi:v1"),
        ("index.docker.io/phi", "docker.io/library/phi:latest"),
        ("localhost/phi", "localhost/phi:latest"),
        ("localhost:5000/a/b/c:v1", "localhost:5000/a/b/c:v1"),
        ("[::1]:5000/phi:v1", "[::1]:5000/phi:v1"),
        ("me.azurecr.io/phi:0.0.1", "me.azurecr.io/phi:0.0.1"),
        (f"me.azurecr.io/phi@{DIGEST}", f"me.azurecr.io/phi@{DIGEST}"),
        (f"me.azurecr.io/phi:v1@{DIGEST}", f"me.azurecr.io/phi:v1@{DIGEST}"),
    ],
)
def test_a_name_is_read_as_docker_reads_it(written: str, meant: str) -> None:
    assert str(parse_reference(written)) == meant


@pytest.mark.parametrize(
    ("written", "found", "fix"),
    [
        ("", "it is empty", "write registry/repository:tag"),
        (
            "ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE:0.0.1",
            'it still has the placeholder "ACR_REPO_HERE"',
            "put your registry and image name there",
        ),
        (
            "me.azurecr.io/IMAGE_NAME_HERE:0.0.1",
            'it still has the placeholder "IMAGE_NAME_HERE"',
            "put your registry and image name there",
        ),
        (
            "ACR_REGISTRY_SECRET_HERE",
            'it still has the placeholder "ACR_REGISTRY_SECRET_HERE"',
            "put your registry and image name there",
        ),
        (
            "<registry>/phi:v1",
            'it still has the placeholder "<registry>"',
            "put your registry and image name there",
        ),
        ("me.azurecr.io/phi :v1", "it has a space in it", "remove the space"),
        (
            "https://me.azurecr.io/phi:v1",
            'it begins with "https://"',
            "write it as me.azurecr.io/phi:v1",
        ),
        (
            "me.azurecr.io/Team/Phi:V1",
            '"Team/Phi" has upper-case letters',
            "write it as me.azurecr.io/team/phi:V1",
        ),
        ("MyTeam/phi", '"MyTeam/phi" has upper-case letters', "write it as myteam/phi"),
        ("me.azurecr.io/phi:", "the tag after the colon is empty", "write one, like :v1"),
        (f"phi:{'x' * 129}", "the tag has 129 characters", "shorten it to at most 128"),
        ("phi:v+1", '"v+1" is no tag', "use letters, digits, dots, dashes and underscores"),
        ("me.azurecr.io/", "it names no repository", "write registry/repository:tag"),
        (
            "me.azurecr.io/a//b",
            '"a//b" is no repository name',
            "use lower-case letters, digits, single dots, dashes and underscores, parted by /",
        ),
        ("-x.io/phi", '"-x.io" is no host name', "write host or host:port"),
        ("phi@sha256:12", '"sha256:12" is no digest', "write @sha256: and 64 hex digits"),
        (f"me.io/{'x' * 250}", "it is over 255 characters long", "shorten it"),
    ],
)
def test_a_name_no_registry_takes_is_refused_with_what_to_write(
    written: str, found: str, fix: str
) -> None:
    with pytest.raises(ImageReferenceInvalid) as refusal:
        parse_reference(written)
    assert str(refusal.value) == f'the image name "{written}" cannot be used; {found}; {fix}'


def test_a_digest_cannot_be_pushed_to() -> None:
    with pytest.raises(ImageReferenceInvalid, match=r"ends in a digest.*push to a tag"):
        parse_push_reference(f"me.io/phi@{DIGEST}")


@pytest.mark.parametrize(
    ("registry", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("registry.localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.1.2.3", True),
        ("[::1]:5000", True),
        ("10.0.0.1:5000", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_only_this_machine_is_loopback(registry: str, loopback: bool) -> None:
    assert Reference(registry, "phi", "v1").is_loopback is loopback


@given(st.text(max_size=60))
def test_any_text_is_a_full_name_that_stands_for_itself_or_is_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ImageReferenceInvalid:
        return
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("image", "kept_as"),
    [
        ("registry.example.com/a/b:1", "registry.example.com/a/b:1.checkpoint"),
        ("registry.example.com/a", "registry.example.com/a:latest.checkpoint"),
        (f"registry.example.com/a:{'t' * 128}", f"registry.example.com/a:{'t' * 117}.checkpoint"),
    ],
    ids=["a tag", "none", "a long one"],
)
def test_checkpoints_are_kept_beside_the_image_that_they_lead_to(image: str, kept_as: str) -> None:
    assert checkpoint_image(image) == kept_as
    assert str(parse_push_reference(kept_as)) == kept_as


@pytest.mark.parametrize(
    ("digest", "target"), [(None, "v1"), ("sha256:0", "sha256:0")], ids=["by tag", "by digest"]
)
def test_a_registry_is_asked_for_the_digest_where_there_is_one(
    digest: str | None, target: str
) -> None:
    assert Reference("r.io", "phi", "v1", digest).target == target


@pytest.mark.parametrize(
    ("registry", "model", "revision", "name"),
    [
        ("r.io", "Qwen/Qwen3-8B", "main", "r.io/qwen/qwen3-8b:main"),
        ("r.io/models/", "a/B_c--d", "v1.0", "r.io/models/a/b_c--d:v1.0"),
        ("localhost:5000", "a/b", "refs/pr/1", "localhost:5000/a/b:refs-pr-1"),
        ("r.io", "a/-odd..name-", "5f" * 20, f"r.io/a/odd-name:{'5f' * 20}"),
    ],
)
def test_a_base_model_has_one_name_in_a_registry(
    registry: str, model: str, revision: str, name: str
) -> None:
    assert model_image(registry, model, revision) == name


def test_a_registry_for_base_models_is_a_host_or_a_path_of_it() -> None:
    with pytest.raises(ImageReferenceInvalid, match="https"):
        model_image("https://r.io", "a/b", "main")


@pytest.mark.parametrize(
    ("written", "is_here"),
    [
        ("localhost:5000/phi", True),
        ("registry.localhost/phi", True),
        ("127.0.0.1:5000/phi", True),
        ("[::1]:5000/phi", True),
        ("registry.example.com/phi", False),
        ("10.0.0.7:5000/phi", False),
    ],
)
def test_a_registry_of_this_machine_is_known_by_its_name(written: str, is_here: bool) -> None:
    assert parse_reference(written).is_loopback is is_here
