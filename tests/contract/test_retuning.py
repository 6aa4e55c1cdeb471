"""What is asked of retuning by annotations, and what of it is refused."""

import pytest

from tasks.contract.canary import Canary
from tasks.contract.errors import InvalidWorkspace
from tasks.contract.retuning import (
    RETUNE_ON_ANNOTATION,
    RETUNE_SCHEDULE_ANNOTATION,
    RetuneSchedule,
    asks_for_retuning,
    expect_retunable,
    parse_schedule,
    retuning_of,
)
from tasks.contract.words import acts_at_once, expect_annotations, without_effect, words
from tasks.contract.workspace import Workspace, parse_workspace
from tests.builders import tuning_manifest


def annotated(**annotations: str) -> Workspace:
    manifest = tuning_manifest()
    manifest["metadata"]["annotations"] = {f"kaitoflow.io/{k}": v for k, v in annotations.items()}
    return parse_workspace(manifest, source="test")


@pytest.mark.parametrize(
    ("text", "every_s"),
    [("6h", 21600), ("P1D", 86400), ("PT90M", 5400), ("10s", 10), ("P1W", 604800)],
)
def test_an_interval_is_read_in_both_its_forms(text: str, every_s: float) -> None:
    assert parse_schedule(text) == RetuneSchedule(every_s=every_s)


@pytest.mark.parametrize(
    ("text", "cron", "zone"),
    [
        ("0 3 * * 1 Europe/Berlin", "0 3 * * 1", "Europe/Berlin"),
        ("*/15  9-17 1,15 jan-mar MON-fri", "*/15 9-17 1,15 jan-mar MON-fri", "UTC"),
    ],
)
def test_a_cron_line_is_read_with_its_time_zone(text: str, cron: str, zone: str) -> None:
    assert parse_schedule(text) == RetuneSchedule(cron=cron, timezone=zone)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("weekly", "it has 1 fields and is no interval"),
        ("5s", "too short or too long"),
        ("P", "it has 1 fields"),
        ("60 3 * * 1", "'60' is no field of cron from 0 to 59"),
        ("0 3 0 * 1", "'0' is no field of cron from 1 to 31"),
        ("0 3 * * 5-1", "'5-1' is no field"),
        ("0 */0 * * *", "'*/0' is no field"),
        ("0 3 * * 1 Europe/Bonn", "there is no time zone 'Europe/Bonn'"),
        ("0 3 * * 1 ../../etc/passwd", "there is no time zone"),
    ],
)
def test_a_schedule_that_is_none_is_refused_with_the_form_of_one(text: str, found: str) -> None:
    with pytest.raises(InvalidWorkspace) as refused:
        retuning_of(annotated(**{"retune-schedule": text}))
    assert found in refused.value.found
    assert '"0 3 * * 1 Europe/Berlin"' in refused.value.fix


def test_without_a_word_nothing_is_scheduled_and_the_gate_alone_promotes() -> None:
    asked = retuning_of(annotated())
    assert (asked.schedule, asked.promotion, asked.history_limit) == (None, "auto", 10)
    assert asked.approval_timeout_s == 7 * 86400
    assert asked.canary == Canary(share=0.1, for_s=600)


def test_a_gate_that_cannot_be_read_is_refused_with_its_grammar() -> None:
    with pytest.raises(InvalidWorkspace, match="METRIC"):
        expect_retunable(annotated(gate="los margin 1"))


def test_data_that_is_watched_without_a_schedule_is_looked_at_every_hour() -> None:
    assert retuning_of(annotated(**{"retune-on": "data-change"})).schedule == RetuneSchedule(
        every_s=3600
    )


@pytest.mark.parametrize(
    ("annotations", "asks"),
    [
        ({}, False),
        ({"retune": "1d"}, False),
        ({RETUNE_SCHEDULE_ANNOTATION: "1d"}, True),
        ({RETUNE_ON_ANNOTATION: "data"}, True),
    ],
)
def test_a_schedule_is_asked_for_by_its_words_alone(
    annotations: dict[str, str], asks: bool
) -> None:
    assert asks_for_retuning(annotations) is asks


def test_the_history_s_bound_is_a_whole_number() -> None:
    with pytest.raises(InvalidWorkspace, match="no whole number"):
        retuning_of(annotated(**{"history-limit": "2.5"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retune-on", "full-moon"),
        ("promotion", "ask"),
        ("history-limit", "0"),
    ],
)
def test_a_word_of_retuning_that_means_nothing_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidWorkspace):
        expect_annotations(annotated(**{name: value}))


def test_no_edit_of_a_word_of_retuning_restarts_or_retrains_anything() -> None:
    of_retuning = [n for n, w in words("annotations").items() if w.acts == "with the next retuning"]
    assert len(of_retuning) >= 4
    assert not any(acts_at_once(name) for name in of_retuning)


def test_a_schedule_for_an_adapter_in_a_volume_is_refused_with_the_field_to_set() -> None:
    manifest = tuning_manifest(output={"volumeSource": {"emptyDir": {}}})
    manifest["metadata"]["annotations"] = {"kaitoflow.io/retune-schedule": "6h"}
    with pytest.raises(InvalidWorkspace, match=r"set tuning\.output\.image"):
        expect_retunable(parse_workspace(manifest, source="test"))


def test_a_workspace_that_tunes_nothing_is_told_that_no_schedule_has_an_effect() -> None:
    manifest = tuning_manifest()
    manifest["inference"] = {"preset": {"name": "smollm2-135m-instruct"}}
    del manifest["tuning"]
    manifest["metadata"]["annotations"] = {"kaitoflow.io/retune-schedule": "6h"}
    told = [*without_effect(parse_workspace(manifest, source="test"))]
    assert told == ["annotation kaitoflow.io/retune-schedule: nothing is tuned"]


@pytest.mark.parametrize("text", ["10% for 10m", " 10 %  for PT10M "])
def test_a_canary_is_a_share_for_a_time(text: str) -> None:
    canary = retuning_of(annotated(canary=text)).canary
    assert (canary.share, canary.for_s) == (0.1, 600)
    assert str(canary) == "10 % of the requests for 10 min"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10%", "no share and time"),
        ("some for 10m", "no share and time"),
        ("0% for 10m", "0 % is no share"),
        ("101% for 10m", "101 % is no share"),
        ("10% for ever", "'ever' is no time"),
        ("10% for 5s", "'5s' is no time"),
        ("10% for 2d", "'2d' is no time"),
    ],
)
def test_a_canary_that_is_none_is_refused_with_the_form_of_one(text: str, found: str) -> None:
    with pytest.raises(InvalidWorkspace) as refused:
        expect_retunable(annotated(canary=text))
    assert found in refused.value.found
    assert '"10% for 10m"' in refused.value.fix


@pytest.mark.parametrize("text", ["soon", "5s", "400d", ""])
def test_a_time_limit_that_is_none_is_refused_with_the_form_of_one(text: str) -> None:
    with pytest.raises(InvalidWorkspace, match='write one, as "7d"'):
        expect_retunable(annotated(**{"approval-timeout": text}))


@pytest.mark.parametrize(
    ("promotion", "without"),
    [("auto", ["approval-timeout", "canary"]), ("approve", ["canary"]), ("canary", [])],
)
def test_a_word_about_another_promotion_is_told_to_have_no_effect(
    promotion: str, without: list[str]
) -> None:
    asked = {"approval-timeout": "1d", "canary": "5% for 1h"}
    told = [*without_effect(annotated(promotion=promotion, **asked))]
    assert [each.partition(":")[0].rpartition("/")[2] for each in told] == without
    assert all("kaitoflow.io/promotion is not" in each for each in told)
