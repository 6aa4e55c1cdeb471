"""What is served is kept whole, and nothing of it that is secret."""

from typing import Any

from tasks.contract.workspace import Workspace, parse_workspace
from tasks.platform.served_revision import (
    served_images,
    served_objects,
    served_revision,
    served_workspace,
)
from tests.builders import tuning_manifest

Object = dict[str, Any]
MADE = [{"kind": "Service", "metadata": {"name": "tuned"}, "spec": {"type": "ClusterIP"}}]


def workspace(*, url: str = "https://example.com/a.parquet", generation: int = 1) -> Workspace:
    manifest = tuning_manifest("tuned")
    manifest["metadata"] |= {
        "namespace": "team",
        "uid": "1",
        "generation": generation,
        "annotations": {"kaitoflow.io/tolerations": "team=ml"},
    }
    manifest["tuning"]["input"] = {"urls": [url]}
    return parse_workspace(manifest, source="test")


def test_what_is_kept_is_found_again_as_it_was() -> None:
    revision = served_revision(workspace(generation=3), MADE)
    assert served_workspace(revision) == workspace(generation=3)
    assert served_objects(revision) == MADE
    assert revision["revision"] == 3
    assert revision["metadata"]["ownerReferences"][0]["uid"] == "1"


def test_a_signed_address_is_kept_without_its_signature() -> None:
    revision = served_revision(workspace(url="https://example.com/a.parquet?sig=abcdef"), MADE)
    assert "abcdef" not in str(revision)


def test_another_server_has_another_name_and_the_same_has_the_same() -> None:
    def name(made: list[Object], generation: int = 1) -> str:
        return str(served_revision(workspace(generation=generation), made)["metadata"]["name"])

    balanced = [MADE[0] | {"spec": {"type": "LoadBalancer"}}]
    assert name(MADE) == name(MADE)
    assert len({name(MADE), name(balanced), name(MADE, generation=2)}) == 3


def test_the_images_that_are_served_are_known_by_their_digests() -> None:
    digest = "sha256:" + "a" * 64
    told = f'{{"reference": "r.example.com/a:1-g2@{digest}", "other": "sha256:{"b" * 64}"}}'
    config_map = {"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"pull-a.json": told}}
    assert served_images(served_revision(workspace(), [*MADE, config_map])) == {digest}
    assert served_images(served_revision(workspace(), MADE)) == frozenset()
