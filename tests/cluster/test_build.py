import shutil
from pathlib import Path

import pytest

from tests.cluster import build


def fake_go(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "go"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


def test_the_tools_are_those_of_go_mod() -> None:
    assert {"crane", "registry"} <= build.tool_packages().keys()


def test_a_tool_that_go_mod_lacks_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"the tool hammer was asked for; go\.mod has .*crane"):
        build.tool("hammer")


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


def test_a_build_that_fails_shows_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "module"
    shutil.copytree(build.MODULE_DIR, pins, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (pins / "go.sum").write_text("")
    monkeypatch.setattr(build, "MODULE_DIR", pins)
    monkeypatch.setattr(build, "BUILD_DIR", tmp_path / "tools")
    with pytest.raises(RuntimeError, match=r"(?s)should build with .*missing go\.sum entry"):
        build.tool("crane")
