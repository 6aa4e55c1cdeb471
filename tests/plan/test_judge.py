"""The judge of a gate is looked at before anything is trained."""

from dataclasses import replace

import pytest

from tasks.contract.artifacts import Check
from tasks.contract.errors import AddressForbidden, JudgeUnavailable, KaitoflowError
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings, JudgeSeen
from tasks.plan.look import look
from tasks.platform.base import World
from tasks.settings import Settings
from tests.builders import tuning_manifest
from tests.dataset.web import running_web

HERE = World(config_maps={}, has_secret=lambda _name: True)
CLUSTER = replace(HERE, is_cluster=True, push=True)
AT = "strict-7b at https://judge.example.com/v1"
INSIDE = AddressForbidden("cannot connect to judge", "it is inside", "use a public address")


def judged(judge: str | None = "https://judge.example.com/v1 strict-7b") -> Workspace:
    manifest = tuning_manifest()
    annotations = {"kaitoflow.io/gate": "judge"} | ({"kaitoflow.io/judge": judge} if judge else {})
    manifest["metadata"]["annotations"] = annotations
    return parse_workspace(manifest, source="test")


def line(
    found: JudgeSeen | KaitoflowError | None, world: World = HERE, name: str = "judge"
) -> Check:
    plan = make_plan(judged(), world, Findings(judge=found))
    return next(check for check in plan.checks if check.name == name)


@pytest.mark.parametrize(
    ("found", "world", "result", "detail"),
    [
        (JudgeSeen(models=("other", "strict-7b")), HERE, "ok", AT),
        (JudgeSeen(models=("other",)), HERE, "warn", f"{AT}, which lists other"),
        (JudgeSeen(models=()), HERE, "ok", f"{AT}, which does not list its models without a key"),
        (JudgeUnavailable("it was asked", "HTTP 503", "see"), HERE, "warn", f"{AT}; it was asked"),
        (INSIDE, CLUSTER, "warn", "was not asked from here"),
        (INSIDE, HERE, "fail", "it is inside"),
        (None, HERE, "ok", AT),
    ],
)
def test_a_judge_has_a_line_of_the_plan(
    found: JudgeSeen | KaitoflowError | None, world: World, result: str, detail: str
) -> None:
    told = line(found, world)
    assert told.result == result
    assert detail in told.detail


def test_a_gate_without_its_judge_is_a_wrong_word() -> None:
    plan = make_plan(judged(None), HERE)
    [words] = [check for check in plan.checks if check.result == "fail" and check.name == "words"]
    assert "nobody says which model judges" in words.detail
    assert "judge" not in [check.name for check in plan.checks]


async def test_a_judge_is_asked_which_models_it_has() -> None:
    with running_web() as web:
        web.serve_bytes("/v1/models", b'{"data": [{"id": "strict-7b"}]}')
        found = await look(
            judged(f"{web.address}/v1 strict-7b"),
            HERE,
            Settings(allow_local_addresses=True),
            list_nodes=None,
            list_holders=None,
        )
    assert found.judge == JudgeSeen(models=("strict-7b",))
