"""What an image says of its adapter: enough to tell of it again, and nothing of a stranger's."""

import pytest

from tasks.contract.found_adapters import found_adapter, number_of
from tasks.contract.image_annotations import (
    CREATED,
    DATASET_DIGEST,
    HELD_OUT,
    TRAINING,
    WORKSPACE_UID,
)

IMAGE = "r.example.com/team/phi:0.0.1"
SAID = {
    WORKSPACE_UID: "uid-1",
    TRAINING: "t1",
    DATASET_DIGEST: "sha256:d",
    CREATED: "2026-11-01T03:00:00Z",
    HELD_OUT: '{"rows": 64, "loss_before": 3.0, "loss_after": 2.5}',
}


@pytest.mark.parametrize(
    ("tag", "number"),
    [
        ("0.0.1", 1),
        ("0.0.1-g2", 2),
        ("0.0.1-g12", 12),
        ("0.0.1-checkpoint", None),
        ("0.0.1-g", None),
        ("0.0.1-g2-checkpoint", None),
        ("0.0.10-g2", None),
        ("latest", None),
        ("0.0.1-g²", None),
        ("0.0.1-g1", None),
        ("0.0.1-g02", None),
        ("0.0.1-g0", None),
        (f"0.0.1-g{'9' * 5000}", None),
    ],
)
def test_a_tag_names_an_adapter_by_its_number(tag: str, number: int | None) -> None:
    assert number_of(IMAGE, tag) == number


def test_an_adapter_is_told_of_as_its_image_says() -> None:
    found = found_adapter(IMAGE, 3, "sha256:3", SAID, uid="uid-1")
    assert found
    assert (found.number, found.training, found.data) == (3, "t1", "sha256:d")
    assert (found.image.reference, found.image.digest) == (f"{IMAGE}-g3", "sha256:3")
    assert found.image.pushed
    assert found.tuned == SAID[CREATED]
    assert found.held_out
    assert (found.held_out.rows, found.held_out.loss_after) == (64, 2.5)


def test_the_first_adapter_has_the_workspace_s_own_tag() -> None:
    found = found_adapter(IMAGE, 1, "sha256:1", SAID, uid="uid-1")
    assert found
    assert found.image.reference == IMAGE


def test_what_an_image_says_moves_no_terminal() -> None:
    found = found_adapter(IMAGE, 2, "sha256:2", SAID | {CREATED: "\x1b[31mnow"}, uid="uid-1")
    assert found
    assert "\x1b" not in found.tuned


@pytest.mark.parametrize("uid", ["uid-2", ""])
def test_the_image_of_another_workspace_is_no_adapter_of_this_one(uid: str) -> None:
    """Also of one that had the same name, and was deleted."""
    assert found_adapter(IMAGE, 1, "sha256:1", SAID, uid=uid) is None
    said = {name: text for name, text in SAID.items() if name != WORKSPACE_UID}
    assert found_adapter(IMAGE, 1, "sha256:1", said, uid=uid) is None


@pytest.mark.parametrize("said", ["", "[]", "{", '{"rows": 1}', '{"rows": "x", "loss_before": 1}'])
def test_a_loss_that_cannot_be_read_is_left_out(said: str) -> None:
    found = found_adapter(IMAGE, 2, "sha256:2", SAID | {HELD_OUT: said}, uid="uid-1")
    assert found
    assert found.held_out is None
