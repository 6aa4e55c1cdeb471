"""The report says what was made, and draws the loss."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.contract.adapter_history import AdapterHistory, AdapterRecord, Making
from tasks.contract.artifacts import Endpoint, PublishedImage
from tasks.contract.data_marks import FileMark
from tasks.contract.held_cost import Cost, HeldMachine
from tasks.contract.programs.tuning import HeldOut, LossAt, Sample
from tasks.contract.status import FinishedStep, WorkspaceStatus
from tasks.contract.workspace import ObjectMeta
from tasks.report import adapters_report, comparison_report, lineage_report, loss_curve, run_report

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


def test_the_curve_lies_in_its_frame_from_the_first_step_to_the_last() -> None:
    curve = loss_curve(HISTORY)
    assert curve is not None
    assert 'points="44.0,44.0 320.0,120.0 596.0,196.0"' in curve
    assert '<path d="M44 44V196H596"' in curve
    for x, y, anchor, text in (
        (38, 48, "end", "2.00"),
        (38, 200, "end", "1.00"),
        (44, 214, "middle", "1"),
        (596, 214, "middle", "step 3"),
        (320, 28, "middle", "training loss"),
    ):
        assert f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>' in curve


def test_a_loss_that_never_changes_is_drawn_as_a_line() -> None:
    curve = loss_curve([LossAt(step=1, loss=2.0), LossAt(step=2, loss=2.0)])
    assert curve is not None
    assert 'points="44.0,44.0 596.0,44.0"' in curve


def test_two_points_are_a_curve() -> None:
    assert loss_curve(HISTORY[:2]) is not None


def test_one_point_is_no_curve() -> None:
    assert loss_curve(HISTORY[:1]) is None


def test_the_curve_is_part_of_the_report() -> None:
    text = run_report("Run", finished_status(), HISTORY, curve=loss_curve(HISTORY))
    assert "![training loss](data:image/svg+xml;base64," in text


def test_the_report_says_where_the_loss_began_and_ended() -> None:
    text = run_report("Run", finished_status(), HISTORY, curve=None)
    assert "From 2.000 (step 1) to 1.000 (step 3)." in text
    assert "![" not in text


@pytest.mark.parametrize(("pushed", "is_said"), [(False, True), (True, False)])
def test_an_image_that_no_registry_has_is_said_to_be_kept(pushed: bool, is_said: bool) -> None:
    status = finished_status()
    status.image = PublishedImage(
        reference="r/a:1", digest="sha256:abc", layout_dir=Path("/images"), pushed=pushed
    )
    text = run_report("Run", status, (), curve=None)
    assert ("Kept in the OCI image layout `/images`" in text) == is_said


def test_the_report_shows_an_answer_before_and_after() -> None:
    status = finished_status()
    sample = Sample(question="What is it?", before="A\nthing", after="The\nthing")
    status.held_out = HeldOut(rows=3, loss_before=2.5, loss_after=1.25, sample=sample)
    text = run_report("Run", status, (), curve=None)
    assert "> What is it?\n\nBefore: A thing\n\nAfter: The thing" in text


def test_of_what_was_not_made_nothing_is_said() -> None:
    text = run_report("Run", WorkspaceStatus(), (), curve=None)
    assert text.startswith("# Run\n\n## Steps")
    for words in ("Image", "Service", "Cost", "Held-out", "Loss"):
        assert words not in text


def test_a_machine_that_is_still_there_is_held() -> None:
    status = finished_status()
    held = HeldMachine.model_validate(
        {"name": "a", "instance_type": "m", "capacity_type": "spot", "gpus": 1, "since": "then"}
    )
    returned = held.model_copy(update={"name": "b", "until": "now"})
    status.cost = Cost(machines=[held, returned])
    text = run_report("Run", status, (), curve=None)
    assert "| a | m | spot | then | held |" in text
    assert "| b | m | spot | then | now |" in text


def an_adapter(number: int, **more: object) -> AdapterRecord:
    image = PublishedImage(reference=f"r.example.com/a:1-g{number}", digest=f"sha256:{number}")
    return AdapterRecord.model_validate({"number": number, "image": image, **more})


def lineage(*records: AdapterRecord, endpoint: Endpoint | None = None) -> list[str]:
    """The rows of the table, newest first."""
    runs_url = "http://prefect/flow-run"
    adapters = AdapterHistory(records=[*records])
    return lineage_report("Lineage", adapters, endpoint, runs_url=runs_url).splitlines()[4:]


def test_lineage_leads_from_the_data_over_run_and_image_to_what_serves() -> None:
    file = FileMark(name="https://example.com/rows", bytes=7, digest="s")
    making = Making(run="0123456789", rows=40, files=(file,))
    made = an_adapter(2, data="d" * 64, generation=3, making=making)
    made.image = made.image.model_copy(update={"pushed": True})
    adapters = AdapterHistory(records=[an_adapter(1, fate="served"), made])
    adapters.promote(2, by="gate", why="better", now=datetime(2026, 1, 1, tzinfo=UTC))
    [second, first] = lineage(
        *adapters.records, endpoint=Endpoint(url="http://127.0.0.1:5000", model="a")
    )
    assert second == (
        f"| `{'d' * 12}`, 40 rows, [https://example.com/rows](https://example.com/rows) "
        "| [`01234567`](http://prefect/flow-run/0123456789) "
        "| [`r.example.com/a:1-g2@sha256:2`](https://r.example.com/v2/a/manifests/sha256:2) "
        "| adapter 2 of generation 3: serving at [http://127.0.0.1:5000](http://127.0.0.1:5000), "
        "2026-01-01T00:00:00Z by gate |"
    )
    assert first == (
        "|  |  | `r.example.com/a:1-g1@sha256:1` | adapter 1 of generation unknown: served |"
    )


def test_a_file_s_name_stays_in_its_cell_and_is_no_markup() -> None:
    making = Making(files=(FileMark(name="a|b<script>\nc"),))
    [row] = lineage(an_adapter(1, making=making))
    assert row.startswith(r"| a\|b&lt;script&gt; c |")


def test_a_person_who_is_to_decide_sees_both_adapters_and_how_to_say_it() -> None:
    candidate = an_adapter(2, why="better", answer_by="2026-01-08T00:00:00Z")
    text = comparison_report(ObjectMeta(name="a"), candidate, an_adapter(1, fate="serving"))
    assert text.startswith("# Is a@2 to serve?\n\nbetter")
    assert "until 2026-01-08T00:00:00Z, or say `kaitoflow promote a`" in text
    assert "| | a@1, which serves | the candidate |\n| --- | --- | --- |" in text
    assert "| image | r.example.com/a:1-g1 | r.example.com/a:1-g2 |" in text


def test_a_candidate_beside_nothing_can_be_decided_about_too() -> None:
    text = comparison_report(ObjectMeta(name="a"), an_adapter(2), None)
    assert "|" not in text


def test_the_adapters_of_a_workspace_have_what_each_cost() -> None:
    image = PublishedImage(reference="r.example.com/a:1-g2", digest="sha256:2")
    records = [
        AdapterRecord(number=2, image=image, making=Making(price_usd=0.5)),
        AdapterRecord(number=3, image=image),
    ]
    _title, _blank, heading, _line, newest, older = adapters_report(
        "Adapters", AdapterHistory(records=records)
    ).splitlines()
    assert heading == "| adapter | | held-out loss | cost | data | image | by | why |"
    assert (newest.count("$"), older.split(" | ")[3]) == (0, "$0.50")
