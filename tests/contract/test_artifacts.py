"""What steps hand on is plain data: as JSON it is Kubernetes' spelling, and it comes back."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.contract.artifacts import Check, Endpoint, Node, Plan, Price, PublishedImage


def test_only_failed_checks_refuse_a_plan() -> None:
    verdicts = {"memory": "ok", "time": "warn", "dataset": "fail"}
    checks = [
        Check.model_validate({"name": n, "result": r, "detail": ""}) for n, r in verdicts.items()
    ]
    assert [check.name for check in Plan(checks=checks).refused] == ["dataset"]


def test_they_are_written_in_kubernetes_spelling_and_read_back() -> None:
    image = PublishedImage(reference="r/a:1", digest="sha256:1", layout_dir=Path("/a"))
    written = image.model_dump(mode="json", by_alias=True)
    assert written == {
        "reference": "r/a:1",
        "digest": "sha256:1",
        "layoutDir": "/a",
        "pushed": False,
        "bytes": 0,
    }
    assert PublishedImage.model_validate(written) == image


def test_what_was_handed_on_is_changed_by_nobody() -> None:
    node = Node(name="a", cores=2, memory_gib=8)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(node, "gpus", 1)  # noqa: B010  mypy knows that it is frozen
    assert node.gpus == 0


def test_a_run_of_unknown_length_has_an_hour_s_price_alone() -> None:
    price = Price(instance_type="m", capacity_type="spot", per_hour=2.5, dated="2025-07-01")
    assert (price.per_hour, price.run) == (2.5, None)


def test_the_command_beside_an_endpoint_can_be_pasted() -> None:
    curl = Endpoint(url="http://127.0.0.1:5000", model="a").curl
    assert curl.startswith(
        "curl -X POST http://127.0.0.1:5000/chat -H 'Content-Type: application/json'"
    )
    assert curl.endswith("""-d '{"prompt": "What does os.path.join do?"}'""")
