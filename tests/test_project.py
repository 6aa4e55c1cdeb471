"""The project's own files agree with each other, and what is shipped is complete."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from requirements.lock import NAMES, stale_locks

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ROOT / "requirements"
# The way up from the file that a path begins with, by parents[] or parent.
UPWARDS = re.compile(r"Path\(__file__\)((?:\.resolve\(\)|\.parents?\b(?:\[\d+\])?)+)")
PIN = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def pins(name: str) -> set[tuple[str, str]]:
    """Each package of a lock with its version."""
    return set(PIN.findall((LOCKS / name).read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_pins_by_hash_and_names_no_index(name: str) -> None:
    requirements = re.split(r"^(?=\w)", (LOCKS / name).read_text(), flags=re.MULTILINE)[1:]
    assert requirements
    assert all("--hash=sha256:" in requirement for requirement in requirements)
    assert not re.search(r"https?://|--(extra-)?index|--find-links", "".join(requirements))


# vLLM wants other versions than the trainer.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "vllm.txt"])
def test_one_package_has_one_version_in_all_locks(name: str) -> None:
    assert pins(name) <= pins("all.txt")


def test_locks_are_stale_once_the_dependencies_change(tmp_path: Path) -> None:
    changed = tmp_path / "pyproject.toml"
    changed.write_text((ROOT / "pyproject.toml").read_text().replace("rich>=14", "rich>=13"))
    assert stale_locks(ROOT / "pyproject.toml", LOCKS) == []
    assert stale_locks(changed, LOCKS) == list(NAMES)


def test_the_changelog_opens_with_the_version_that_is_shipped() -> None:
    released = re.findall(r"^## \[?v?(\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == PYPROJECT["project"]["version"]


def test_the_readme_names_only_targets_and_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", readme, re.MULTILINE)) <= targets
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", readme)
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "deployments").rglob("*.yaml")), ids=str)
def test_every_yaml_file_shipped_can_be_read(path: Path) -> None:
    if "templates" in path.parts:  # a chart's templates are YAML only once rendered
        assert "{{" in path.read_text()
        return
    assert list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda p: p.name)
def test_a_test_names_no_path_outside_of_the_repository(path: Path) -> None:
    source = path.read_text()
    depth = len(path.relative_to(ROOT).parts)
    assert [steps for steps in UPWARDS.findall(source) if _levels(steps) > depth] == []
    assert not re.search(r"\bROOT[.]parent\b", source)


def _levels(steps: str) -> int:
    by_number = sum(int(number) + 1 for number in re.findall(r"\.parents\[(\d+)\]", steps))
    return by_number + len(re.findall(r"\.parent\b", steps))


def test_the_wheel_holds_every_data_file_and_no_test(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    tracked = ["git", "ls-files", "flows", "tasks", "serving"]
    listed = subprocess.run(tracked, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert set(listed.split()) <= names
    assert not [name for name in names if name.startswith("tests/")]


def final_stage(image: str) -> str:
    """What of a Containerfile makes the image itself, comments left out."""
    text = (ROOT / "deployments" / "images" / image / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(lines).rpartition("\nFROM ")[2]


def test_the_pod_image_has_a_c_compiler_for_kernels() -> None:
    (installed,) = re.findall(r"apt-get install ([^&]+)&&", final_stage("pod"))
    assert {"gcc", "libc6-dev", "--no-install-recommends"} <= set(installed.split())


def test_the_pod_image_keeps_caches_where_a_pod_may_write() -> None:
    caches = re.findall(r"(\w*CACHE\w*)=(\S+)", final_stage("pod"))
    assert {name for name, _ in caches} >= {"TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"}
    assert all(path.startswith("/tmp/") for _, path in caches)


def test_each_rule_that_ruff_leaves_out_is_named_once() -> None:
    ignored = PYPROJECT["tool"]["ruff"]["lint"]["ignore"]
    assert sorted(set(ignored)) == sorted(ignored)


# What a fragment begins with: "Of each file", "None is named", "Args:", a word in lower case.
FRAGMENT = re.compile(r"(Of|None|As|Args|Raises|In|On|By|Without|See|Also|Same|Like|Empty|[a-z])\b")


each_module = pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("flows", "tasks", "serving")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)


@each_module
def test_a_docstring_begins_with_a_sentence_that_stands_without_the_name(path: Path) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented)]
    first_lines = [(ast.get_docstring(node) or "").partition("\n")[0] for node in nodes]
    assert [line for line in first_lines if FRAGMENT.match(line)] == []


@each_module
def test_each_private_name_of_a_module_is_used_in_it(path: Path) -> None:
    text, private = path.read_text(), set[str]()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            names = (each for target in node.targets for each in ast.walk(target))
            private |= {each.id for each in names if isinstance(each, ast.Name)}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            private.add(node.name)
    private = {name for name in private if re.match(r"_[A-Za-z]", name)}
    assert sorted(name for name in private if len(re.findall(rf"\b{name}\b", text)) == 1) == []
