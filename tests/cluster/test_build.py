import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import build


def fake_go(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "go"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The modules, to be changed, and an empty folder to build into."""
    folder = tmp_path / "modules"
    shutil.copytree(build.MODULES_DIR, folder)
    monkeypatch.setattr(build, "MODULES_DIR", folder)
    monkeypatch.setattr(build, "BUILD_DIR", tmp_path / "tools")
    return folder


def test_the_tools_are_those_of_go_mod() -> None:
    assert build.tool_packages(build.MODULES_DIR / "registry").keys() == {"crane", "registry"}


def test_a_comment_names_the_program_whose_package_has_no_name() -> None:
    packages = build.tool_packages(build.MODULES_DIR / "kubernetes")
    assert packages["etcd"] == "go.etcd.io/etcd/server/v3"


def test_every_program_that_tests_use_is_pinned() -> None:
    modules = [go_mod.parent for go_mod in build.MODULES_DIR.glob("*/go.mod")]
    pinned = {name for module in modules for name in build.tool_packages(module)}
    assert set(build.USED_BY_TESTS) <= pinned


def test_a_change_of_one_module_leaves_the_others_programs(modules: Path) -> None:
    helm, registry = modules / "helm", modules / "registry"
    before = build.tools_dir(helm), build.tools_dir(registry)
    (helm / "go.sum").write_text("")
    assert build.tools_dir(helm) != before[0]
    assert build.tools_dir(registry) == before[1]


def test_programs_of_kubebuilder_assets_are_used_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "kube-apiserver"
    program.touch(mode=0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert build.tool("kube-apiserver") == program


def test_kubernetes_is_told_its_version() -> None:
    flags = build._linker_flags(build.MODULES_DIR / "kubernetes")
    assert "version.gitVersion=v1.36" in flags
    assert "version.gitMinor=36" in flags


def test_a_tool_that_go_mod_lacks_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"the tool hammer was asked for; go\.mod has .*crane"):
        build.tool("hammer")


def test_a_program_that_is_not_built_says_how_to_in_one_sentence(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(
        build.NotPrepared, match="crane, which is not built: run make prepare-tests$"
    ):
        build.tool("crane")
    with pytest.raises(
        build.NotPrepared, match="kubelet, which is not built: run make prepare-nodes$"
    ):
        build.tool("kubelet")


def test_a_test_without_its_programs_shows_that_sentence_and_no_trace(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("""
from tests.cluster.build import NotPrepared
def test_it():
    raise NotPrepared("there is no crane: run make prepare-tests")
""")
    pytest_ = [sys.executable, "-m", "pytest", "-ptests.cluster.fixtures", f"--rootdir={tmp_path}"]
    said = subprocess.run([*pytest_, str(tmp_path)], check=False, stdout=subprocess.PIPE, text=True)
    assert "there is no crane: run make prepare-tests" in said.stdout.splitlines()
    assert "raise" not in said.stdout


def test_the_go_on_path_is_used_when_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = fake_go(tmp_path, "go99.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.find_go() == go


def test_the_go_of_the_wheel_is_used_when_the_one_on_path_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "wheel" / "go"
    go = fake_go(wheel / "bin", "go1.99.0")
    (wheel / "__init__.py").write_text("")
    fake_go(tmp_path / "old", "go1.19.8")
    monkeypatch.setenv("PATH", str(tmp_path / "old"))
    monkeypatch.syspath_prepend(tmp_path / "wheel")
    assert build.find_go() == go


def test_no_go_or_an_old_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"needs Go 1\.26\.0 or newer \(found: none\); run make"):
        build.find_go()
    old = fake_go(tmp_path, "go1.19.8")
    with pytest.raises(RuntimeError, match=rf"\(found: {old} 1\.19\.8\)"):
        build.find_go()


def test_a_build_that_fails_shows_why(modules: Path) -> None:
    (modules / "registry" / "go.sum").write_text("")
    with pytest.raises(RuntimeError, match=r"(?s)should build with .*missing go\.sum entry"):
        build.build_tool("crane")
