"""InferenceSets on a real API server; nobody runs their Workspaces, whose status is made up."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client, config

from flows.watcher import inference_sets
from flows.watcher.inference_sets import InferenceSets
from tasks.contract.inference_set import CREATED_BY, Object
from tasks.platform.kube_api import KubeApi
from tests.chart.rendering import CRDS
from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


class Sets:
    """One namespace in which InferenceSets are kept."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._control_plane, self.namespace = control_plane, namespace

    async def kubectl(self, *words: str, stdin: str | None = None) -> str:
        return await asyncio.to_thread(
            self._control_plane.kubectl, *words, f"--namespace={self.namespace}", stdin=stdin
        )

    async def apply(self, manifest: Object) -> None:
        await self.kubectl("apply", "--filename=-", stdin=json.dumps(manifest))

    async def found(self, kind: str, name: str = "") -> Any:
        words = [name] if name else [f"--selector={CREATED_BY}"]
        told = json.loads(await self.kubectl("get", kind, *words, "--output=json"))
        return told if name else told["items"]

    async def members(self) -> list[str]:
        return [each["metadata"]["name"] for each in await self.found("workspaces")]

    async def condition(self) -> Any:
        status = (await self.found("inferencesets", "coder")).get("status") or {}
        return next(iter(status.get("conditions") or ()), {})

    async def answer(self, *names: str) -> None:
        """Have members tell that they serve as they are asked to."""
        for name in names:
            await self._tell(name, "True")

    async def silence(self, name: str) -> None:
        """Have a member tell that it does not."""
        await self._tell(name, "False")

    async def _tell(self, name: str, is_ready: str) -> None:
        generation = (await self.found("workspaces", name))["metadata"]["generation"]
        ready = {
            "type": "InferenceReady",
            "status": is_ready,
            "reason": "Told",
            "message": "",
            "lastTransitionTime": "2026-11-30T12:00:00Z",
        }
        patch = json.dumps({"status": {"observedGeneration": generation, "conditions": [ready]}})
        kind = ("workspace", name, "--subresource=status", "--type=merge")
        await self.kubectl("patch", *kind, f"--patch={patch}")

    async def become(self, is_so: Callable[[], Awaitable[bool]], *, within_s: float = 20) -> None:
        deadline = time.monotonic() + within_s
        while not await is_so():
            assert time.monotonic() < deadline, "did not come true in time"
            await asyncio.sleep(0.2)

    async def have(self, *names: str) -> None:
        """Return once these are the members."""

        async def are_there() -> bool:
            return sorted(await self.members()) == sorted(names)

        await self.become(are_there)

    async def told(self, reason: str) -> str:
        """What the condition says, once it has the reason."""

        async def has_reason() -> bool:
            return bool((await self.condition()).get("reason") == reason)

        await self.become(has_reason)
        return str((await self.condition())["message"])


def coder(**spec: Any) -> Object:
    template = {
        "resource": {"instanceType": "Standard_NC24ads_A100_v4"},
        "inference": {"preset": {"name": "qwen2.5-coder-7b-instruct"}},
    }
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "InferenceSet",
        "metadata": {"name": "coder"},
        "spec": {"replicas": 2, "template": template} | spec,
    }


@pytest.fixture
async def sets(
    control_plane: ControlPlane, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sets]:
    monkeypatch.setattr(inference_sets, "_SETTLES_S", 0.0)
    namespace = f"sets-{secrets.token_hex(4)}"
    await asyncio.to_thread(control_plane.kubectl, "create", "namespace", namespace)
    for kind in ("workspaces", "inferencesets"):
        definition = (CRDS / f"kaito.sh_{kind}.yaml").read_text()
        await asyncio.to_thread(control_plane.define, f"{kind}.kaito.sh", definition)
    settings = client.Configuration()
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        str(kubeconfig), client_configuration=settings
    )
    api = KubeApi(client.ApiClient(settings), patience_s=10)
    keeping = asyncio.create_task(InferenceSets(api, namespaces=[namespace]).keep())
    yield Sets(control_plane, namespace)
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    await api.close()
    await asyncio.sleep(0.25)  # aiohttp's TLS connections are closed a little later
    gone = ("delete", "namespace", namespace, "--wait=false")
    await asyncio.to_thread(control_plane.kubectl, *gone)


async def test_a_set_is_made_into_workspaces_and_one_service(sets: Sets) -> None:
    await sets.apply(coder())
    await sets.have("coder-0", "coder-1")
    (service,) = await sets.found("services")
    assert service["spec"]["selector"] == {CREATED_BY: "coder"}
    assert "0 of 2 answer" in await sets.told("ReplicasPending")
    await sets.answer("coder-0", "coder-1")
    assert await sets.told("ReplicasReady") == "2 of 2 answer"


async def test_kubectl_scale_makes_members_and_takes_the_highest(sets: Sets) -> None:
    await sets.apply(coder(replicas=1))
    await sets.have("coder-0")
    await sets.kubectl("scale", "inferenceset", "coder", "--replicas=3")
    await sets.have("coder-0", "coder-1", "coder-2")
    await sets.kubectl("scale", "inferenceset", "coder", "--replicas=1")
    await sets.have("coder-0")
    scale = json.loads(
        await sets.kubectl("get", "--subresource=scale", "inferenceset/coder", "--output=json")
    )
    assert scale["status"]["selector"] == f"{CREATED_BY}=coder"


async def test_what_of_a_set_is_deleted_is_there_again(sets: Sets) -> None:
    await sets.apply(coder())
    await sets.have("coder-0", "coder-1")
    before = (await sets.found("workspaces", "coder-0"))["metadata"]["uid"]
    await sets.kubectl("delete", "workspace", "coder-0", "--wait=false")
    beside = ("services", "poddisruptionbudgets")
    for kind in beside:
        await sets.kubectl("delete", kind, "coder")

    async def are_others() -> bool:
        found = {
            e["metadata"]["name"]: e["metadata"]["uid"] for e in await sets.found("workspaces")
        }
        are_beside = [bool(await sets.found(kind)) for kind in beside]
        return found.get("coder-0", before) != before and all(are_beside)

    await sets.become(are_others)


async def test_a_new_template_waits_for_each_member_to_answer(sets: Sets) -> None:
    await sets.apply(coder())
    await sets.have("coder-0", "coder-1")
    await sets.answer("coder-0", "coder-1")
    await sets.told("ReplicasReady")
    newer = coder()
    newer["spec"]["template"]["inference"]["config"] = "settings"
    await sets.apply(newer)

    async def changed() -> list[bool]:
        return ["config" in each["inference"] for each in await sets.found("workspaces")]

    async def has_begun() -> bool:
        return await changed() == [True, False]

    await sets.become(has_begun)
    await asyncio.sleep(1)
    assert await has_begun()
    await sets.answer("coder-0")

    async def is_over() -> bool:
        return await changed() == [True, True]

    await sets.become(is_over)


async def test_a_new_annotation_reaches_the_next_member_once_the_last_has_settled(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference_sets, "_SETTLES_S", 3.0)
    await sets.apply(coder())
    await sets.have("coder-0", "coder-1")
    await sets.answer("coder-0", "coder-1")
    await sets.told("ReplicasReady")
    newer = coder()
    newer["spec"]["template"]["metadata"] = {"annotations": {"kaitoflow.io/memory": "24Gi"}}
    await sets.apply(newer)
    seen = list[int]()

    async def is_over() -> bool:
        found = [each["metadata"]["annotations"] for each in await sets.found("workspaces")]
        seen.append(sum("kaitoflow.io/memory" in each for each in found))
        return seen[-1] == len(found)

    await sets.become(is_over)
    assert seen.count(1) >= 3


async def test_what_no_workspace_may_change_is_another_workspace_one_by_one(sets: Sets) -> None:
    await sets.apply(coder())
    await sets.have("coder-0", "coder-1")
    await sets.answer("coder-0", "coder-1")
    await sets.told("ReplicasReady")
    newer = coder()
    newer["spec"]["template"]["inference"]["preset"]["name"] = "phi-4-mini-instruct"
    await sets.apply(newer)

    async def presets() -> list[str]:
        found = await sets.found("workspaces")
        return [each["inference"]["preset"]["name"] for each in found]

    async def has_begun() -> bool:
        return await presets() == ["phi-4-mini-instruct", "qwen2.5-coder-7b-instruct"]

    await sets.become(has_begun)
    await asyncio.sleep(1)
    assert await has_begun()
    await sets.answer("coder-0")

    async def is_over() -> bool:
        return await presets() == ["phi-4-mini-instruct"] * 2

    await sets.become(is_over)


async def test_in_a_set_of_one_another_answers_while_the_member_is_replaced(sets: Sets) -> None:
    await sets.apply(coder(replicas=1))
    await sets.have("coder-0")
    await sets.answer("coder-0")
    await sets.told("ReplicasReady")
    newer = coder(replicas=1)
    newer["spec"]["template"]["inference"]["preset"]["name"] = "phi-4-mini-instruct"
    await sets.apply(newer)
    await sets.have("coder-0", "coder-1")

    async def preset() -> str:
        return str((await sets.found("workspaces", "coder-0"))["inference"]["preset"]["name"])

    await asyncio.sleep(1)
    assert await preset() == "qwen2.5-coder-7b-instruct"
    await sets.answer("coder-1")

    async def is_replaced() -> bool:
        found = await sets.found("workspaces")
        return [e["inference"]["preset"]["name"] for e in found] == ["phi-4-mini-instruct"] * 2

    await sets.become(is_replaced)
    await sets.answer("coder-0")
    await sets.have("coder-0")
    await sets.told("ReplicasReady")


async def test_the_only_member_that_answers_is_not_replaced(sets: Sets) -> None:
    in_place = {"replicas": 1, "updateStrategy": {"rollingUpdate": {"maxSurge": 0}}}
    await sets.apply(coder(**in_place))
    await sets.have("coder-0")
    await sets.answer("coder-0")
    await sets.told("ReplicasReady")
    newer = coder(**in_place)
    newer["spec"]["template"]["inference"]["preset"]["name"] = "phi-4-mini-instruct"
    await sets.apply(newer)
    assert "raise spec.replicas or spec.updateStrategy.rollingUpdate.maxSurge" in await sets.told(
        "MemberRefused"
    )
    await sets.kubectl("delete", "workspace", "coder-0")
    await sets.have("coder-0")
    kept = await sets.found("workspaces", "coder-0")
    assert kept["inference"]["preset"]["name"] == "phi-4-mini-instruct"


async def test_a_workspace_of_somebody_else_stays_and_that_is_told(sets: Sets) -> None:
    mine = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "coder-0"},
        "resource": {"labelSelector": {"matchLabels": {"mine": "yes"}}},
        "inference": {"preset": {"name": "phi-4-mini-instruct"}},
    }
    await sets.apply(mine)
    await sets.apply(coder())
    assert "coder-0 is somebody else's" in await sets.told("MemberRefused")
    kept = await sets.found("workspaces", "coder-0")
    assert kept["inference"]["preset"]["name"] == "phi-4-mini-instruct"
    assert await sets.members() == ["coder-1"]


async def test_a_template_that_no_workspace_may_have_is_told_in_the_rules_own_words(
    sets: Sets,
) -> None:
    wrong = coder()
    wrong["spec"]["template"]["inference"] = {"preset": {"name": ""}}
    await sets.apply(wrong)
    assert "coder-0 was refused" in await sets.told("MemberRefused")


async def test_members_are_owned_by_their_set_and_go_with_it(sets: Sets) -> None:
    await sets.apply(coder())
    await sets.have("coder-0", "coder-1")
    uid = (await sets.found("inferencesets", "coder"))["metadata"]["uid"]
    for each in [*await sets.found("workspaces"), *await sets.found("services")]:
        (owner,) = each["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)
