"""Schedules in Prefect and annotations of Workspaces are equal, whichever of them was lost."""

from typing import Any
from uuid import UUID, uuid4

from flows.schedules import Add, Change, Remove, There, changes, wanted_bodies
from tasks.contract.workspace import Workspace, parse_workspace
from tests.builders import tuning_manifest

WEEKLY = {"kaitoflow.io/retune-schedule": "0 3 * * 1 Europe/Berlin"}
HOURLY = {"kaitoflow.io/retune-on": "data-change"}


def workspace(name: str, annotations: dict[str, str], **changed: Any) -> Workspace:
    manifest = tuning_manifest(name, **changed)
    manifest["metadata"]["annotations"] = annotations
    return parse_workspace(manifest, source="test")


def as_prefect_has_them(*workspaces: Workspace, paused: bool = False) -> list[There]:
    made = wanted_bodies(workspaces)
    return [
        There(
            id=UUID(int=number),
            slug=slug,
            body={
                "active": not paused,
                "schedule": {"anchor_date": "2026-01-01", "day_or": True, **body["schedule"]},
                "parameters": body["parameters"],
            },
        )
        for number, (slug, body) in enumerate(made.items())
    ]


def test_each_workspace_that_asks_for_one_has_a_schedule_with_parameters_of_its_own() -> None:
    wanted = wanted_bodies([workspace("a", WEEKLY), workspace("b", HOURLY), workspace("c", {})])
    assert wanted == {
        "default/a": {
            "schedule": {"cron": "0 3 * * 1", "timezone": "Europe/Berlin"},
            "parameters": {"namespace": "default", "name": "a"},
        },
        "default/b": {
            "schedule": {"interval": 3600.0},
            "parameters": {"namespace": "default", "name": "b"},
        },
    }


def test_a_prefect_server_that_has_lost_its_database_has_them_again() -> None:
    told = changes(wanted_bodies([workspace("a", WEEKLY)]), [])
    assert [each.body["slug"] for each in told if isinstance(each, Add)] == ["default/a"]


def test_what_is_as_it_should_be_is_left_alone() -> None:
    both = [workspace("a", WEEKLY), workspace("b", HOURLY)]
    assert changes(wanted_bodies(both), as_prefect_has_them(*both)) == []


def test_a_schedule_goes_with_its_workspace_and_with_its_annotation() -> None:
    there = as_prefect_has_them(workspace("a", WEEKLY), workspace("b", HOURLY))
    told = changes(wanted_bodies([workspace("b", {})]), there)
    assert [each.slug for each in told if isinstance(each, Remove)] == ["default/a", "default/b"]


def test_another_time_changes_the_schedule_that_is_there() -> None:
    there = as_prefect_has_them(workspace("a", WEEKLY))
    [told] = changes(wanted_bodies([workspace("a", HOURLY)]), there)
    assert isinstance(told, Change)
    assert told.body["schedule"] == {"interval": 3600.0}


def test_one_that_a_person_has_paused_stays_paused_whatever_becomes_of_its_time() -> None:
    paused = as_prefect_has_them(workspace("a", WEEKLY), paused=True)
    assert changes(wanted_bodies([workspace("a", WEEKLY)]), paused) == []
    [told] = changes(wanted_bodies([workspace("a", HOURLY)]), paused)
    assert isinstance(told, Change)
    assert "active" not in told.body


def test_a_schedule_of_nobody_s_goes() -> None:
    [told] = changes({}, [There(id=uuid4(), slug="", body={})])
    assert isinstance(told, Remove)


def test_a_workspace_whose_schedule_is_refused_has_none() -> None:
    refused = workspace("a", {"kaitoflow.io/retune-schedule": "sometimes"})
    into_volume = workspace("b", WEEKLY, output={"volumeSource": {"emptyDir": {}}})
    assert wanted_bodies([refused, into_volume]) == {}
