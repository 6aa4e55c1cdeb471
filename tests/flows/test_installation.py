"""What the chart's Jobs decide; in memory, while tests/chart has them before an API server."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from flows.installation import uninstall
from flows.installation.passwords import Password, PasswordNotFound, make_passwords
from flows.installation.uninstall import (
    WorkspacesLeft,
    drain,
    expect_none,
    was_made_for_an_event,
)
from tasks.contract.errors import InvalidSettings, KubernetesRefused
from tasks.contract.workspace import FINALIZER
from tasks.platform.kube_api import KubeApi

Object = dict[str, Any]


@dataclass
class Objects:
    """Takes the place of the API server's client: what there is, and what was asked of it."""

    workspaces: list[Object] = field(default_factory=list)
    sets: list[Object] = field(default_factory=list)
    secrets: dict[str, Object] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    refuses: int = 0
    looks_until_gone: int = 1
    somebody_is_faster: bool = False

    @property
    def api(self) -> KubeApi:
        return cast("KubeApi", self)

    async def find(self, kind: str, namespace: str | None) -> list[Object]:
        if self.refuses:
            error = KubernetesRefused("", "", "")
            error.status = self.refuses
            raise error
        if kind == "InferenceSet":
            return self.sets
        if self.deleted:
            self.looks_until_gone -= 1
        if self.looks_until_gone < 0:
            self.workspaces = []
        return [w for w in self.workspaces if namespace in (None, w["metadata"]["namespace"])]

    async def delete(self, _kind: str, _namespace: str, name: str, *, uid: str) -> bool:
        self.deleted.append(f"{name} {uid}")
        for each in self.workspaces:
            if each["metadata"]["uid"] == uid:
                each["metadata"]["deletionTimestamp"] = "now"
        return True

    async def get(self, _kind: str, _namespace: str, name: str) -> Object | None:
        return self.secrets.get(name)

    async def create(self, _kind: str, _namespace: str, body: Object) -> Object | None:
        made = {"data": body["stringData"]}
        self.secrets[body["metadata"]["name"]] = made
        return None if self.somebody_is_faster else made


def workspace(name: str, namespace: str = "team", *, is_held: bool = True) -> Object:
    meta = {"name": name, "namespace": namespace, "uid": f"uid-{name}"}
    return {"metadata": meta | ({"finalizers": [FINALIZER]} if is_held else {})}


def test_a_password_is_alone_or_behind_a_user() -> None:
    assert Password.parse("database/password") == Password("database", "password")
    assert Password.parse("login/auth=me") == Password("login", "auth", "me")


@pytest.mark.parametrize("text", ["", "database", "/password", "database/", "=me"])
def test_a_password_without_a_place_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidSettings, match="write SECRET/KEY, or SECRET/KEY=USER"):
        Password.parse(text)


async def test_each_password_is_made_of_its_own() -> None:
    objects = Objects()
    wanted = [Password("database", "password"), Password("login", "auth", "me")]
    assert await make_passwords(objects.api, "home", wanted) == {"database": True, "login": True}
    first, second = (objects.secrets[each.secret]["data"][each.key] for each in wanted)
    assert second.startswith("me:")
    assert first != second.removeprefix("me:")
    assert len(first) == len(second.removeprefix("me:")) == 32


async def test_a_password_that_is_there_or_that_somebody_has_just_made_is_kept() -> None:
    kept = Objects(secrets={"a": {"data": {"key": "old"}}})
    assert await make_passwords(kept.api, "home", [Password("a", "key")]) == {"a": False}
    assert kept.secrets["a"]["data"] == {"key": "old"}
    raced = Objects(somebody_is_faster=True)
    assert await make_passwords(raced.api, "home", [Password("a", "key")]) == {"a": False}


@pytest.mark.parametrize("content", [{}, {"data": None}, {"data": {"other": "x"}}])
async def test_a_secret_without_its_key_is_told(content: Object) -> None:
    objects = Objects(secrets={"a": content})
    with pytest.raises(PasswordNotFound, match="Secret home/a was to hold the key key"):
        await make_passwords(objects.api, "home", [Password("a", "key")])


@pytest.mark.parametrize(
    ("manager", "expected"),
    [
        ("helm", True),
        ("helm-controller", True),
        ("terraform-provider-helm_v3.0.2_x5", True),
        ("argocd-controller", True),
        ("kubectl-client-side-apply", False),
        ("kubectl", False),
        ("kustomize-controller", False),
    ],
)
def test_only_who_knows_events_makes_a_job_for_one(manager: str, expected: bool) -> None:
    job = {"metadata": {"managedFields": [{"manager": manager}, {"manager": "kube-controller"}]}}
    assert was_made_for_an_event(job) is expected


async def test_those_that_live_are_named_ten_at_most() -> None:
    objects = Objects([workspace(f"w{number}") for number in range(12)])
    with pytest.raises(WorkspacesLeft) as refused:
        await expect_none(objects.api, ())
    assert "12 Workspace(s): team/w0, " in refused.value.found
    assert refused.value.found.endswith("team/w9, and 2 more")
    assert "helm upgrade --reuse-values --set uninstall.drain=true" in refused.value.fix


@pytest.mark.parametrize(
    "objects",
    [
        Objects(),
        Objects([workspace("free", is_held=False)]),
        Objects([workspace("elsewhere", "other")]),
        Objects(refuses=404),
    ],
    ids=["none", "held by nobody", "of another namespace", "without a definition"],
)
async def test_nothing_is_in_the_way_of_an_uninstallation(objects: Objects) -> None:
    await expect_none(objects.api, ("team",))


async def test_who_may_not_look_does_not_take_it_for_none() -> None:
    with pytest.raises(KubernetesRefused):
        await expect_none(Objects(refuses=403).api, ())


async def test_draining_deletes_each_once_and_waits_until_all_have_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uninstall, "_LOOK_AGAIN_S", 0)
    going = workspace("going")
    going["metadata"]["deletionTimestamp"] = "now"
    objects, told = Objects([workspace("a"), going], looks_until_gone=3), list[str]()
    await drain(objects.api, (), limit_s=60, tell=told.append)
    assert objects.deleted == ["a uid-a"]
    assert told == ["waiting for Workspaces to go: team/a, team/going"]
    assert objects.workspaces == []


async def test_draining_deletes_sets_before_their_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uninstall, "_LOOK_AGAIN_S", 0)
    objects = Objects([workspace("coder-0")], [workspace("coder", is_held=False)])
    await drain(objects.api, (), limit_s=60, tell=lambda _: None)
    assert objects.deleted == ["coder uid-coder", "coder-0 uid-coder-0"]


async def test_draining_ends_when_nobody_lets_go() -> None:
    objects = Objects([workspace("a")], looks_until_gone=99)
    with pytest.raises(WorkspacesLeft, match="have not let go within 0 s of 1 .*: team/a"):
        await drain(objects.api, (), limit_s=0, tell=lambda _: None)
