"""`make images`; in the place of docker, podman and buildah are programs that tell their calls."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
IMAGES = ("control", "pod", "vllm")
DIGEST = f"sha256:{'a' * 64}"
# What the script itself uses; no engine that this machine may have.
TOOLS = ("bash", "cat", "dirname", "env", "mktemp", "rm", "sed")
ENGINE = f"""#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$1 $2" in
"push --digestfile") printf %s {DIGEST} > "$3" ;;
"inspect --format") echo "${{4%:*}}@{DIGEST}" ;;
"info ") exit "${{DAEMON:-0}}" ;;
esac
"""


class Machine:
    """A machine that has these engines and no other."""

    def __init__(self, folder: Path, *engines: str) -> None:
        self.folder, self.calls = folder, folder / "calls"
        for tool in (*TOOLS, "basename"):
            found = shutil.which(tool)
            assert found
            (folder / tool).symlink_to(found)
        for engine in engines:
            (folder / engine).write_text(ENGINE)
            (folder / engine).chmod(0o755)
        self.calls.touch()

    def build(self, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [ROOT / "deployments" / "images" / "build.sh"],
            env={"PATH": str(self.folder), "CALLS": str(self.calls), **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_the_images_are_pushed_where_the_chart_looks_and_told_by_digest(
    engine: str, tmp_path: Path
) -> None:
    machine = Machine(tmp_path, engine)
    said = machine.build(PUSH="r.io/team")
    names = [f"r.io/team/kaitoflow/{name}" for name in IMAGES]
    assert said.stdout.splitlines() == [f"{name}@{DIGEST}" for name in names], said.stderr
    built = [line for line in machine.called() if line.startswith(f"{engine} build ")]
    assert all(f"--tag {n}:{VERSION} " in line for n, line in zip(names, built, strict=True))
    pushed = [line for line in machine.called() if line.startswith(f"{engine} push ")]
    assert [line.rpartition(" ")[2] for line in pushed] == [f"{name}:{VERSION}" for name in names]


def test_without_a_registry_nothing_is_pushed(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "podman")
    assert machine.build(BUILD_ARGS="--build-arg BASE=x").returncode == 0
    for name, line in zip(IMAGES, machine.called(), strict=True):
        assert f"--tag kaitoflow/{name}:{VERSION} --build-arg BASE=x ." in line


def test_docker_without_its_daemon_gives_way_to_another(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "docker", "buildah")
    assert machine.build(DAEMON="1").returncode == 0
    assert [line for line in machine.called() if line.startswith("docker")] == ["docker info"]


@pytest.mark.parametrize(
    ("engines", "variables", "fix"),
    [
        ((), {}, "install one of them, such as podman"),
        (("docker",), {"DAEMON": "1"}, "install one of them, such as podman"),
        (("podman",), {"ENGINE": "buildah"}, "install or start it, or leave ENGINE away"),
        (("podman",), {"PUSH": "oci://r.io"}, "leave out what stands before ://"),
        (("podman",), {"PUSH": "r.io/"}, "host, host:port or host/path; write it so"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_to_do(
    engines: tuple[str, ...], variables: dict[str, str], fix: str, tmp_path: Path
) -> None:
    machine = Machine(tmp_path, *engines)
    said = machine.build(**variables)
    assert said.returncode == 2
    assert fix in said.stderr
    assert not [line for line in machine.called() if " build " in line]


def test_make_hands_on_what_it_is_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "podman")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["make", "--silent", "images", "PUSH=r.io/x", "ENGINE=podman"],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "CALLS": str(machine.calls)},
        check=True,
        capture_output=True,
    )
    assert "podman push --digestfile" in machine.called()[1]
