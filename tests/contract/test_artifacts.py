"""What steps hand on is plain data: as JSON it is Kubernetes' spelling, and it comes back."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.contract.artifacts import (
    Check,
    Dataset,
    Endpoint,
    Node,
    Plan,
    Price,
    PublishedImage,
    Swap,
    Tuned,
    TunedAdapter,
)
from tasks.contract.programs.dataset import BadRows, DatasetReport, TokenSpread
from tasks.contract.programs.tuning import LossAt, RowCounts, TuningResult


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


@pytest.mark.parametrize(
    ("kept", "url"),
    [
        ({}, ""),
        ({"layout_dir": Path("/images")}, "file:///images"),
        ({"pushed": True}, "https://r.example.com:5000/v2/team/a/manifests/sha256:1"),
        (
            {"pushed": True, "layout_dir": Path("/images")},
            "https://r.example.com:5000/v2/team/a/manifests/sha256:1",
        ),
    ],
)
def test_an_image_s_manifest_lies_in_its_registry_or_on_disk(kept: Any, url: str) -> None:
    image = PublishedImage(reference="r.example.com:5000/team/a:1", digest="sha256:1", **kept)
    assert image.url == url


def test_what_was_handed_on_is_changed_by_nobody() -> None:
    node = Node(name="a", cores=2, memory_gib=8)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(node, "gpus", 1)  # noqa: B010  mypy knows that it is frozen
    assert node.gpus == 0


def test_a_log_line_about_them_leaves_their_long_reports_out() -> None:
    metrics = TuningResult(
        adapter=Path("/a"),
        steps=1,
        final_loss=1.5,
        history=(LossAt(step=1, loss=1.5),),
        tokens=10,
        rows=RowCounts(trained=1, held_out=0, cut=0, dropped=0),
        held_out=None,
        tokens_per_s=2.0,
        peak_memory_gib=1.0,
        seconds=5.0,
    )
    assert repr(TunedAdapter(metrics=metrics)) == "TunedAdapter()"
    report = DatasetReport(
        digest="d",
        rows=1,
        tokens=TokenSpread(total=10, min=10, median=10.0, p95=10, max=10),
        truncated_rows=0,
        duplicate_rows=0,
        max_length=1024,
        bad_rows=BadRows(total=0, listed=()),
        files=(),
        train_sha256="t",
    )
    assert repr(Dataset(digest="d", rows=1, report=report)) == "Dataset(digest='d', rows=1)"


def test_a_run_of_unknown_length_has_an_hour_s_price_alone() -> None:
    price = Price(instance_type="m", capacity_type="spot", per_hour=2.5, dated="2025-07-01")
    assert (price.per_hour, price.run) == (2.5, None)


def test_the_command_beside_an_endpoint_can_be_pasted() -> None:
    curl = Endpoint(url="http://127.0.0.1:5000", model="a").curl
    assert curl.startswith(
        "curl -X POST http://127.0.0.1:5000/chat -H 'Content-Type: application/json'"
    )
    assert curl.endswith("""-d '{"prompt": "What does os.path.join do?"}'""")


EIGHT = Node(name="n", cores=96, memory_gib=900, gpus=8, gpu_memory_gib=79.2)


@pytest.mark.parametrize(
    ("node", "needed_gib", "gpus"),
    [
        (EIGHT, 20.0, 1),
        (EIGHT, 79.2, 1),
        (EIGHT, 131.0, 8),
        (EIGHT, None, 8),
        (EIGHT.model_copy(update={"gpu_memory_gib": None}), 20.0, 8),
        (EIGHT.with_gpus(4), 20.0, 4),
        (EIGHT.model_copy(update={"gpus": 0}), 1.0, 0),
    ],
    ids=["fits", "just fits", "spread", "need unknown", "card unknown", "held", "none"],
)
def test_a_server_takes_one_gpu_where_that_is_known_to_be_enough(
    node: Node, needed_gib: float | None, gpus: int
) -> None:
    assert node.gpus_for(needed_gib) == gpus


@pytest.mark.parametrize(
    ("training", "why"),
    [
        ("same", "tuned in generation 3; nothing it depends on has changed"),
        ("other", "tuned in generation 3; its ConfigMap or an annotation has changed since, and"),
    ],
)
def test_what_is_not_tuned_again_says_why(training: str, why: str) -> None:
    assert Tuned(training="same", generation=3).why(training).startswith(why)
    assert Tuned(training="", generation=0).why("").startswith("tuned before; ")


def test_an_adapter_is_of_the_generation_that_tuned_it_and_of_the_one_it_was_kept_for() -> None:
    kept = Tuned(training="t", generation=3, kept_for=5)
    assert [kept.is_of(generation) for generation in (3, 4, 5)] == [True, False, True]


@pytest.mark.parametrize(
    ("swap", "ends"),
    [
        (None, True),
        (Swap.PAUSE, True),
        (Swap.BESIDE, False),
        (Swap.SECOND_NODE, False),
        (Swap.SECOND_NODE_OR_PAUSE, False),
    ],
)
def test_a_server_ends_first_where_nothing_is_tuned_beside_it(
    swap: Swap | None, ends: bool
) -> None:
    assert Plan(checks=[], swap=swap).server_ends is ends


def test_a_plan_that_looked_at_nothing_claims_nothing() -> None:
    told = Plan(checks=[]).model_dump()
    assert not any(told.values())
