import json
import subprocess
from pathlib import Path

import pytest

from tasks.contract.errors import (
    ImageReferenceInvalid,
    ImageUnreadable,
    RegistryDenied,
    RegistryUnavailable,
)
from tasks.contract.programs.image import PullsConfig
from tasks.image.pod.pull import pull_image
from tasks.image.pod.pull_all import pull_images
from tasks.image.pod.push import push_image
from tests.cluster.registry import RunningRegistry, docker_config
from tests.image.builders import (
    add_image,
    member,
    pull_config,
    push_config,
    read_blob,
    read_index,
    tree,
    zipped,
)
from tests.image.faulty import Fault, faulty_registry

pytestmark = [pytest.mark.registry, pytest.mark.timeout(60, func_only=True)]

REFERENCE = "me.azurecr.io/team/phi:v1"
OTHER = "me.azurecr.io/team/phi:v2"


@pytest.fixture
def layout_dir(tmp_path: Path) -> Path:
    """A layout with REFERENCE, two files, and OTHER, one of them changed and one new."""
    folder = tmp_path / "layout"
    lower = zipped(member("data/a", b"A"), member("data/f/b", b"B"))
    add_image(folder, REFERENCE, lower)
    add_image(folder, OTHER, zipped(member("data/a", b"new"), member("data/n", b"N")))
    return folder


def test_an_image_of_the_layout_is_not_asked_for_elsewhere(
    layout_dir: Path, tmp_path: Path
) -> None:
    result = pull_image(pull_config(REFERENCE, tmp_path / "target", layout_dir=layout_dir))
    assert (result.source, result.changed) == ("layout", True)
    assert tree(tmp_path / "target") == {"a": "A", "f/b": "B"}


def test_an_image_that_is_there_is_left_as_it_is(layout_dir: Path, tmp_path: Path) -> None:
    config = pull_config(REFERENCE, tmp_path / "target", layout_dir=layout_dir)
    pull_image(config)
    before = (tmp_path / "target").stat()
    assert pull_image(config).changed is False
    assert (tmp_path / "target").stat() == before


def test_images_that_are_wanted_together_have_a_folder_each(
    layout_dir: Path, tmp_path: Path
) -> None:
    wanted = {"one": REFERENCE, "two": OTHER}
    configs = [
        pull_config(image, tmp_path / name, layout_dir=layout_dir) for name, image in wanted.items()
    ]
    result = pull_images(PullsConfig(images=tuple(configs)))
    assert (result.images, result.bytes > 0) == (2, True)
    assert tree(tmp_path / "one") == {"a": "A", "f/b": "B"}
    assert tree(tmp_path / "two") == {"a": "new", "n": "N"}


def test_another_image_takes_the_place_of_the_older_and_files_of_others_stay(
    layout_dir: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    pull_image(pull_config(REFERENCE, target, layout_dir=layout_dir))
    (target / "mine").write_text("mine")
    assert pull_image(pull_config(OTHER, target, layout_dir=layout_dir)).changed
    assert tree(target) == {"a": "new", "n": "N", "mine": "mine"}


def test_a_pull_that_fails_leaves_the_target_as_it_was(layout_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    pull_image(pull_config(REFERENCE, target, layout_dir=layout_dir))
    add_image(layout_dir, OTHER, zipped(member("data/a", b"x")), zipped(member("/data/b")))
    with pytest.raises(ImageUnreadable):
        pull_image(pull_config(OTHER, target, layout_dir=layout_dir))
    assert tree(target) == {"a": "A", "f/b": "B"}
    assert pull_image(pull_config(REFERENCE, target, layout_dir=layout_dir)).changed is False


def test_a_target_that_exists_and_is_empty_is_filled(layout_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    pull_image(pull_config(REFERENCE, tmp_path / "target", layout_dir=layout_dir))
    assert tree(tmp_path / "target") == {"a": "A", "f/b": "B"}


def test_an_image_cannot_forge_the_marker(layout_dir: Path, tmp_path: Path) -> None:
    forged = zipped(member("data/.kaitoflow-image", b"{}"), member("data/a", b"A"))
    digest = add_image(layout_dir, REFERENCE, forged)
    pull_image(pull_config(REFERENCE, tmp_path / "target", layout_dir=layout_dir))
    marker = json.loads((tmp_path / "target" / ".kaitoflow-image").read_text())
    assert marker == {"reference": REFERENCE, "digest": digest, "entries": ["a"]}


def test_a_target_that_is_a_mount_point_is_filled(
    layout_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mounting takes rights that a test may lack; what differs is that no rename may replace it."""
    target = tmp_path / "target"
    target.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == target)
    inode = target.stat().st_ino
    pull_image(pull_config(REFERENCE, target, layout_dir=layout_dir))
    assert tree(target) == {"a": "A", "f/b": "B"}
    assert target.stat().st_ino == inode
    assert {path.name for path in target.iterdir()} == {"a", "f", ".kaitoflow-image"}


def test_an_image_index_gives_its_linux_amd64_image(layout_dir: Path, tmp_path: Path) -> None:
    digest = add_image(layout_dir, REFERENCE, zipped(member("data/a", b"amd64")))
    other = add_image(layout_dir, OTHER, zipped(member("data/a", b"arm64")))
    entries = [("arm64", other), ("unknown", other), ("amd64", digest)]
    index = [
        {
            "digest": one,
            "size": len(read_blob(layout_dir, one)),
            "platform": {"os": "unknown" if arch == "unknown" else "linux", "architecture": arch},
        }
        for arch, one in entries
    ]
    add_image(layout_dir, "me.io/index:v1", manifests=index)
    pull_image(pull_config("me.io/index:v1", tmp_path / "target", layout_dir=layout_dir))
    assert tree(tmp_path / "target") == {"a": "amd64"}


def test_an_index_with_one_image_gives_that(layout_dir: Path, tmp_path: Path) -> None:
    digest = add_image(layout_dir, REFERENCE, zipped(member("data/a", b"only")))
    attested = {"platform": {"os": "unknown", "architecture": "unknown"}}
    entry = {"digest": digest, "size": len(read_blob(layout_dir, digest))}
    index = [entry, entry | attested]
    add_image(layout_dir, "me.io/index:v1", manifests=index)
    pull_image(pull_config("me.io/index:v1", tmp_path / "target", layout_dir=layout_dir))
    assert tree(tmp_path / "target") == {"a": "only"}


def test_an_index_inside_an_index_is_followed(layout_dir: Path, tmp_path: Path) -> None:
    """As builders make them: the image and what it was built from, together for each platform."""
    name = "me.io/index"
    digest = add_image(layout_dir, REFERENCE, zipped(member("data/a", b"inner")))
    for number in range(4):
        entry = {"digest": digest, "size": len(read_blob(layout_dir, digest)), "platform": AMD}
        digest = add_image(layout_dir, f"{name}:{number}", manifests=[entry])
    pull_image(pull_config(f"{name}:2", tmp_path / "target", layout_dir=layout_dir))
    assert tree(tmp_path / "target") == {"a": "inner"}
    with pytest.raises(ImageUnreadable, match="nested over 4 deep"):
        pull_image(pull_config(f"{name}:3", tmp_path / "target", layout_dir=layout_dir))


def test_a_manifest_of_another_size_than_its_index_says_is_refused(
    layout_dir: Path, tmp_path: Path
) -> None:
    digest = add_image(layout_dir, REFERENCE, zipped(member("data/a", b"A")))
    add_image(layout_dir, OTHER, manifests=[{"digest": digest, "size": 1}])
    with pytest.raises(ImageUnreadable, match="its index says 1 bytes and it has"):
        pull_image(pull_config(OTHER, tmp_path / "target", layout_dir=layout_dir))


def test_an_artifact_of_plain_files_is_laid_out_by_their_titles(
    layout_dir: Path, tmp_path: Path
) -> None:
    files = {"adapter_config.json": b"{}", "data/weights": b"W", "dataset.jsonl": b"rows"}
    add_image(layout_dir, REFERENCE, *files.values())
    manifest = json.loads(read_blob(layout_dir, read_index(layout_dir)[REFERENCE]))
    for layer, title in zip(manifest["layers"], files, strict=True):
        layer["mediaType"] = "application/octet-stream"
        layer["annotations"] = {"org.opencontainers.image.title": title}
    add_image(layout_dir, REFERENCE, *files.values(), layers=manifest["layers"])
    pull_image(pull_config(REFERENCE, tmp_path / "target", layout_dir=layout_dir))
    expected = {"adapter_config.json": "{}", "weights": "W", "dataset.jsonl": "rows"}
    assert tree(tmp_path / "target") == expected


@pytest.mark.parametrize("title", ["../a", "/etc/a", "a/../../b", "", ".", "n" * 300, "d/" * 70])
def test_a_plain_file_with_an_unsafe_title_is_refused(
    layout_dir: Path, tmp_path: Path, title: str
) -> None:
    layer = json.loads(read_blob(layout_dir, read_index(layout_dir)[REFERENCE]))["layers"][0]
    layer |= {"annotations": {"org.opencontainers.image.title": title}, "mediaType": "text/plain"}
    add_image(layout_dir, REFERENCE, layers=[layer])
    with pytest.raises(ImageUnreadable):
        pull_image(pull_config(REFERENCE, tmp_path / "target", layout_dir=layout_dir))


AMD = {"os": "linux", "architecture": "amd64"}
ARM = {"os": "linux", "architecture": "arm64"}
FAR = {"digest": f"sha256:{'0' * 64}", "size": 1}


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (
            {"manifests": [FAR | {"platform": ARM}, FAR | {"platform": ARM | {"os": "windows"}}]},
            "it has nothing for linux/amd64 (found: linux/arm64, windows/arm64)",
        ),
        ({"manifests": []}, "it has nothing for linux/amd64 (found: nothing)"),
        ({"manifests": 1}, 'the "manifests" of its manifest are no list of objects'),
        (
            {"layers": [{"digest": "sha256:../../../etc/passwd", "size": 1}]},
            "its manifest has a blob with the digest 'sha256:../../../etc/passwd'",
        ),
        ({"layers": [{"digest": f"sha256:{'0' * 64}"}]}, "its manifest has a blob with"),
        ({"layers": [FAR | {"size": -1}]}, "its manifest has a blob with the size -1"),
        ({"layers": [FAR] * 513}, "its manifest lists 513 layers, over 512"),
        ({"manifests": [FAR] * 513}, "its manifest lists 513 manifests, over 512"),
        (
            {"layers": [FAR | {"mediaType": "application/octet-stream"}]},
            "it has a layer of the type 'application/octet-stream', which is no archive",
        ),
        ({"layers": ["x"]}, 'the "layers" of its manifest are no list of objects'),
    ],
)
def test_manifests_that_cannot_be_used_are_told(
    layout_dir: Path, tmp_path: Path, document: dict[str, object], found: str
) -> None:
    add_image(layout_dir, REFERENCE, zipped(member("data/a")), **document)
    with pytest.raises(ImageUnreadable) as refusal:
        pull_image(pull_config(REFERENCE, tmp_path / "target", layout_dir=layout_dir))
    message = f"the image {REFERENCE} cannot be read; {found}"
    assert str(refusal.value).startswith(message)
    assert str(refusal.value).endswith("push it as an OCI image for linux/amd64")


def test_an_image_that_another_tool_made_is_pulled(
    registry: RunningRegistry, crane: Path, tmp_path: Path, name: str
) -> None:
    reference = f"{registry.host}/{name}:v1"
    for number in (1, 2):
        (tmp_path / f"{number}.tar.gz").write_bytes(
            zipped(member("data/train.jsonl", b"%d" % number), member(f"data/{number}", b"x"))
        )
    layers = [f"--new_layer={tmp_path / f'{number}.tar.gz'}" for number in (1, 2)]
    append = [str(crane), "append", "--oci-empty-base", f"--new_tag={reference}", *layers]
    subprocess.run(append, check=True, capture_output=True)
    assert pull_image(pull_config(reference, tmp_path / "target")).source == "registry"
    assert tree(tmp_path / "target") == {"train.jsonl": "2", "1": "x", "2": "x"}


def test_an_image_is_pulled_by_its_digest(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    digest = push_image(push_config(adapter, f"{registry.host}/{name}:v1")).digest
    result = pull_image(pull_config(f"{registry.host}/{name}@{digest}", tmp_path / "target"))
    assert result.digest == digest


def test_each_docker_config_is_tried_after_an_anonymous_try(
    private_registry: RunningRegistry, adapter: Path, login: Path, tmp_path: Path, name: str
) -> None:
    reference = f"{private_registry.host}/{name}:v1"
    push_image(push_config(adapter, reference, docker_config=login))
    wrong = tmp_path / "wrong.json"
    wrong.write_text(docker_config(private_registry.host, password="wrong"))
    pull_image(pull_config(reference, tmp_path / "target", docker_configs=(wrong, login)))
    assert (tmp_path / "target" / "adapter_config.json").exists()
    with pytest.raises(
        RegistryDenied, match=r"pulling .* registry refused it \(401 .*check the password"
    ):
        pull_image(pull_config(reference, tmp_path / "other", docker_configs=(wrong,)))
    with pytest.raises(RegistryDenied, match="no credentials were given"):
        pull_image(pull_config(reference, tmp_path / "other"))


def test_a_public_image_needs_no_password(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    """Not even one that works: it is not sent."""
    push_image(push_config(adapter, f"{registry.host}/{name}:v1"))
    absent = tmp_path / "absent.json"
    config = pull_config(
        f"{registry.host}/{name}:v1", tmp_path / "target", docker_configs=(absent,)
    )
    assert pull_image(config).changed


def test_an_image_that_is_nowhere_is_told(registry: RunningRegistry, tmp_path: Path) -> None:
    with pytest.raises(
        ImageReferenceInvalid, match=r"answered 404 MANIFEST_UNKNOWN: .*; check the"
    ):
        pull_image(pull_config(f"{registry.host}/absent:v1", tmp_path / "target"))
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/manifests/", status=503),
        Fault("GET", "/blobs/", drop=True),
        Fault("GET", "/blobs/", status=200, body="other bytes"),
        Fault("GET", "/blobs/", status=200, body="x" * 10**6),
    ],
    ids=["manifest", "drop", "wrong", "longer"],
)
def test_a_broken_download_is_tried_again(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str, fault: Fault
) -> None:
    push_image(push_config(adapter, f"{registry.host}/{name}:v1"))
    with faulty_registry(registry.host, fault) as proxy:
        pull_image(pull_config(f"{proxy.host}/{name}:v1", tmp_path / "target"))
    assert fault.times == 0
    assert (tmp_path / "target" / "tokenizer.json").exists()


def test_bytes_that_stay_wrong_are_never_unpacked(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    push_image(push_config(adapter, f"{registry.host}/{name}:v1"))
    fault = Fault("GET", "/blobs/", status=200, body="other bytes", times=99)
    with (
        faulty_registry(registry.host, fault) as proxy,
        pytest.raises(RegistryUnavailable, match="are not those of the digest; check that"),
    ):
        pull_image(pull_config(f"{proxy.host}/{name}:v1", tmp_path / "target", patience_s=0.3))
    assert not (tmp_path / "target").exists()


def test_a_manifest_of_another_digest_is_not_taken(
    registry: RunningRegistry, adapter: Path, tmp_path: Path, name: str
) -> None:
    digest = push_image(push_config(adapter, f"{registry.host}/{name}:v1")).digest
    manifest = read_blob(adapter.parent / "layout", digest).decode()
    fault = Fault("GET", "/manifests/", status=200, body=f"{manifest} ", times=99)
    with (
        faulty_registry(registry.host, fault) as proxy,
        pytest.raises(RegistryUnavailable, match=f"its manifest {digest} has the digest sha256:"),
    ):
        pull_image(
            pull_config(f"{proxy.host}/{name}@{digest}", tmp_path / "target", patience_s=0.3)
        )
