"""What steps hand on is plain data: as JSON it is Kubernetes' spelling, and it comes back."""

from pathlib import Path

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
