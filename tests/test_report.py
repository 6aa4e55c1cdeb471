"""The report says what was made, and draws the loss."""

from datetime import UTC, datetime

from tasks.contract.artifacts import Endpoint, PublishedImage
from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.programs.tuning import HeldOut, LossAt
from tasks.contract.status import FinishedStep, WorkspaceStatus
from tasks.report import loss_curve, run_report

HISTORY = [LossAt(step=1, loss=2.0), LossAt(step=2, loss=1.5), LossAt(step=3, loss=1.0)]


def finished_status() -> WorkspaceStatus:
    return WorkspaceStatus(
        steps=[FinishedStep(name="tune", seconds=12.3, detail="loss 1.0")],
        image=PublishedImage(reference="r/a:1", digest="sha256:abc", pushed=True),
        endpoint=Endpoint(url="http://127.0.0.1:5000", model="a"),
        held_out=HeldOut(rows=30, loss_before=2.5, loss_after=1.25),
    )


def test_the_report_names_image_service_steps_and_held_out_loss() -> None:
    text = run_report("Run", finished_status(), (), curve=None)
    for words in (
        "r/a:1@sha256:abc",
        "http://127.0.0.1:5000",
        "| tune | 12.3 |",
        "**1.250** after",
    ):
        assert words in text


def test_the_report_names_what_its_machines_cost() -> None:
    status = finished_status()
    held = HeldMachine(
        name="wsabc",
        instance_type="Standard_NC24ads_A100_v4",
        capacity_type="spot",
        gpus=1,
        price_per_hour=2.0,
        since="2026-01-01T12:00:00Z",
    )
    status.cost = Cost(machines=[held]).at(datetime(2026, 1, 1, 14, tzinfo=UTC))
    text = run_report("Run", status, (), curve=None)
    assert "$4.00 for 2.000 GPU-hours" in text
    assert "| wsabc | Standard_NC24ads_A100_v4 | spot |" in text


def test_the_loss_curve_has_a_point_for_each_step() -> None:
    curve = loss_curve(HISTORY)
    assert curve is not None
    points = curve.split('points="')[1].split('"')[0].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)
    assert len(points) == len(HISTORY)


def test_one_point_is_no_curve() -> None:
    assert loss_curve(HISTORY[:1]) is None


def test_the_curve_is_part_of_the_report() -> None:
    text = run_report("Run", finished_status(), HISTORY, curve=loss_curve(HISTORY))
    assert "![training loss](data:image/svg+xml;base64," in text
