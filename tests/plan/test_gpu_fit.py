"""How a run fits the machines that are named, word for word."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tasks.contract.artifacts import Check
from tasks.contract.workspace import Workspace, parse_workspace
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings
from tasks.platform.base import World
from tasks.skus.prices import price_table
from tests.builders import tuning_manifest

CLUSTER = World(config_maps={}, has_secret=lambda _name: True, is_cluster=True, push=True)
MADE = Findings(provisioner="aks", prices=price_table(None))
T4, A100 = "Standard_NC4as_T4_v3", "Standard_NC24ads_A100_v4"
LARGE = "llama-3.3-70b-instruct"
EIGHT_ROWS = "batch 8 x 1024 tokens"
NO_BF16 = "its T4 has no bfloat16: training and serving compute in float16"


def tuned(preset: str, *machines: str, annotations: Mapping[str, str] | None = None) -> Workspace:
    first, *others = machines
    manifest = tuning_manifest(preset={"name": preset}, method="lora")
    manifest["resource"]["instanceType"] = first
    named = {"kaitoflow.io/instance-types": ",".join(others)} if others else {}
    manifest["metadata"]["annotations"] = named | dict(annotations or {})
    return parse_workspace(manifest, source="test")


def served(preset: str, machine: str) -> Workspace:
    manifest: dict[str, Any] = {
        "metadata": {"name": "served"},
        "resource": {"instanceType": machine},
        "inference": {"preset": {"name": preset}},
    }
    return parse_workspace(manifest, source="test")


def told(workspace: Workspace, findings: Findings = MADE) -> Check:
    plan = make_plan(workspace, CLUSTER, findings)
    return next(check for check in plan.checks if check.name == "GPU fit")


@pytest.mark.parametrize(
    ("workspace", "detail", "fix"),
    [
        (
            served("phi-4-mini-instruct", A100),
            f"{A100} (1 x A100 80 GiB): peak about 8.9 of 79.2 GiB",
            "",
        ),
        (
            served("someone/some-model", A100),
            f"{A100} (1 x A100 80 GiB): the model's size is not known",
            "",
        ),
        (
            tuned("smollm2-135m-instruct", A100),
            f"{A100} (1 x A100 80 GiB): peak about 8.0 of 79.2 GiB, {EIGHT_ROWS}, bfloat16",
            "",
        ),
        (
            tuned("smollm2-135m-instruct", T4),
            f"{T4} (1 x T4 16 GiB): peak about 8.0 of 14.6 GiB, batch 8 x 1024 tokens, float16",
            NO_BF16,
        ),
    ],
)
def test_a_machine_that_fits_is_told_with_all_that_is_known(
    workspace: Workspace, detail: str, fix: str
) -> None:
    check = told(workspace)
    assert (check.result, check.detail, check.fix) == ("warn" if fix else "ok", detail, fix)


def test_each_machine_is_told_and_what_one_of_them_lacks() -> None:
    check = told(tuned("phi-4", T4, A100, "Standard_NC24ads_A100_v9"))
    small, large, unknown = check.detail.split("; ")
    assert small.startswith(f"{T4} (1 x T4 16 GiB): peak about ")
    assert large.startswith(f"{A100} (1 x A100 80 GiB): peak about ")
    assert unknown == "Standard_NC24ads_A100_v9 is not in the catalogue"
    bf16, too_small, near = check.fix.split("; ", 2)
    assert (check.result, bf16) == ("warn", NO_BF16)
    assert too_small == f"{T4} is too small and will not do"
    assert near.startswith(f"did you mean {A100}, ")


def test_a_machine_that_tunes_and_cannot_serve_says_so() -> None:
    manifest = tuning_manifest(preset={"name": "phi-4"}, method="qlora")
    manifest["resource"]["instanceType"] = T4
    asked = parse_workspace(manifest, source="test")
    assert (
        f"to serve the tuned model {T4} lacks 15.1 GiB: take a larger one, or annotate "
        'kaito.sh/serve: "false"'
    ) in told(asked).fix
    manifest["metadata"]["annotations"] = {"kaito.sh/serve": "false"}
    assert "lacks" not in told(parse_workspace(manifest, source="test")).fix


NONE = "a GPU has to hold the whole model, and none that is known does: choose a smaller preset"
CHEAPEST = "choose Standard_NC24ads_A100_v4, the cheapest that fits, or a smaller preset"
TWO_A100 = CHEAPEST.replace("NC24ads", "NC48ads")
TWO_A10 = "Standard_NV72ads_A10_v5"
LARGER = "choose a larger one or a smaller preset"
LESS = ", method qlora or a smaller max_length"
BYPASSED = {"kaito.sh/bypass-resource-checks": ""}


@pytest.mark.parametrize(
    ("workspace", "findings", "result", "fix"),
    [
        (tuned(LARGE, T4), MADE, "fail", NONE + LESS),
        (tuned("phi-4", T4), MADE, "fail", CHEAPEST + LESS),
        (
            tuned("phi-4", TWO_A10),
            MADE,
            "fail",
            f"a GPU has to hold the whole model: {CHEAPEST}{LESS}",
        ),
        (tuned("phi-4", T4, annotations=BYPASSED), MADE, "warn", CHEAPEST + LESS),
        (tuned("phi-4", T4), replace(MADE, provisioner="byo"), "warn", CHEAPEST + LESS),
        (
            tuned("phi-4", A100, annotations={"kaitoflow.io/gpus": "2"}),
            MADE,
            "fail",
            f"kaitoflow.io/gpus asks for 2 GPUs: lower it, or {TWO_A100}{LESS}",
        ),
        (tuned(LARGE, T4), replace(MADE, prices=None), "fail", LARGER + LESS),
        (
            served(LARGE, A100),
            MADE,
            "fail",
            "choose Standard_NC80adis_H100_v5, the cheapest that fits, or a smaller preset",
        ),
    ],
)
def test_what_fits_on_none_is_refused_with_what_does_but_where_the_user_answers_for_it(
    workspace: Workspace, findings: Findings, result: str, fix: str
) -> None:
    check = told(workspace, findings)
    assert (check.result, check.reason, check.fix) == (result, "ModelDoesNotFit", fix)


def test_a_machine_with_several_gpus_is_told_with_what_they_do() -> None:
    four = "Standard_NC96ads_A100_v4"
    assert (
        " of 79.2 GiB on each of 4 GPUs, which share the rows of a step, batch 8"
        in told(tuned("phi-4-mini-instruct", four)).detail
    )
    shared = told(tuned("phi-4-mini-instruct", four), replace(MADE, provisioner="byo"))
    assert " of 79.2 GiB on one GPU, batch 8" in shared.detail


def test_a_server_that_needs_several_nodes_is_told_that_it_runs_on_one() -> None:
    assert told(served(LARGE, A100)).detail.endswith("GiB, and a server runs on one node")


def test_where_no_machine_is_known_a_near_name_is_all_that_is_told() -> None:
    check = told(tuned("phi-4", "Standard_NC4as_T4_v4"))
    assert check.result == "warn"
    assert check.detail == "Standard_NC4as_T4_v4 is not in the catalogue"
    assert check.fix.startswith(f"did you mean {T4}")
