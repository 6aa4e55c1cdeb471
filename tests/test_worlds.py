"""The two sides stay apart: no torch where runs are ordered, no orchestrator inside a pod.

The import contracts say this of our own lines; here fresh interpreters prove it with the libraries.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEARNING = {"accelerate", "bitsandbytes", "datasets", "peft", "torch", "transformers", "trl"}
ORCHESTRATION = {"cyclopts", "kopf", "kubernetes", "prefect"}


def modules() -> list[str]:
    """Every module of the three packages, dotted; a program's `__main__` is not for importing."""
    files = [path for top in ("flows", "tasks", "serving") for path in (ROOT / top).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return sorted(n.removesuffix(".__init__") for n in names if not n.endswith(".__main__"))


def in_pod(name: str) -> bool:
    """Whether a module runs inside a container."""
    return name.startswith("serving") or ".pod." in f"{name}."


POD = [name for name in modules() if in_pod(name)]
CONTROL = [name for name in modules() if not in_pod(name)]


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after running `code`."""
    ending = (
        "\nimport json, sys\nprint(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    program = [sys.executable, "-c", code + ending]
    done = subprocess.run(program, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def locked(name: str) -> set[str]:
    """The packages of a lock."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return {line.partition("==")[0] for line in lines if "==" in line and line[0].isalnum()}


def test_control_modules_load_no_learning_library() -> None:
    loaded = loaded_by(f"import {', '.join([*CONTROL, 'flows.__main__'])}")
    assert "prefect" in loaded
    assert not loaded & LEARNING


def test_pod_modules_load_no_orchestrator_and_no_control_code() -> None:
    loaded = loaded_by(f"import {', '.join(POD)}")
    assert "torch" in loaded
    assert not loaded & {*ORCHESTRATION, "flows"}


@pytest.mark.parametrize("program", ["tasks.dataset.pod", "tasks.image.pod"])
def test_programs_without_a_model_start_without_torch(program: str) -> None:
    assert "torch" not in loaded_by(f"import {program}.__main__")


def test_help_answers_without_loading_either_side() -> None:
    code = "import sys, flows.__main__ as cli\nsys.argv = ['kaitoflow', '--help']\ncli.main()"
    assert not loaded_by(code) & (LEARNING | ORCHESTRATION - {"cyclopts"})


def test_on_one_machine_workspaces_are_listed_without_a_cluster_s_libraries(tmp_path: Path) -> None:
    code = (
        f"import os, sys\nos.environ['KAITOFLOW_HOME'] = {str(tmp_path)!r}\n"
        "import flows.__main__ as cli\nsys.argv = ['kaitoflow', 'get']\n"
        "try: cli.main()\nexcept SystemExit as ended: assert not ended.code, ended.code"
    )
    assert not loaded_by(code) & (LEARNING | {"aiohttp", "kopf", "kubernetes"})


def test_the_control_lock_has_no_learning_library() -> None:
    assert "prefect" in locked("control.txt")
    assert not locked("control.txt") & LEARNING


def test_the_pod_lock_has_no_orchestrator() -> None:
    assert "torch" in locked("pods.txt")
    assert not locked("pods.txt") & ORCHESTRATION


def test_the_lock_of_vllm_has_what_serves_and_no_orchestrator() -> None:
    assert {"vllm", "aiohttp", "fastapi", "llguidance", "peft"} <= locked("vllm.txt")
    assert not locked("vllm.txt") & (ORCHESTRATION | {"bitsandbytes", "trl"} - {"cyclopts"})


def test_what_talks_to_vllm_loads_nothing_of_it_and_no_learning_library() -> None:
    loaded = loaded_by("import serving.vllm_engine.keeper, serving.vllm_engine.client")
    assert not loaded & (LEARNING | {"vllm"})
