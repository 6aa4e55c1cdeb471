"""The set-up takes the right build of PyTorch, drops what a CPU does not need, and says why not."""

import re
import sys
from pathlib import Path

import pytest

from requirements import install

LOCK = install.LOCK.read_text()


def choose(choice: str = "auto", *, has_gpu: bool, answers: bool, system: str = "linux") -> str:
    """The build chosen on a machine like this."""
    return install.torch_build(
        choice, system=system, has_gpu=has_gpu, cpu_build_answers=lambda: answers
    )


@pytest.mark.parametrize(
    ("has_gpu", "answers", "build"),
    [(True, True, "cuda"), (False, True, "cpu"), (False, False, "cuda")],
)
def test_the_cpu_build_is_for_machines_without_a_gpu_that_can_reach_it(
    has_gpu: bool, answers: bool, build: str
) -> None:
    assert choose(has_gpu=has_gpu, answers=answers) == build


def test_a_fallback_to_the_locked_build_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    choose(has_gpu=False, answers=False)
    assert "CPU index does not answer: taking the locked build" in capsys.readouterr().err


def test_a_choice_by_hand_wins_and_nothing_is_asked_elsewhere_than_on_linux() -> None:
    assert choose("cpu", has_gpu=True, answers=False) == "cpu"
    assert choose(has_gpu=False, answers=True, system="darwin") == "cuda"


def test_an_unknown_build_is_refused_with_the_known_ones() -> None:
    with pytest.raises(install.SetupError, match=r"found 'gpu'; set it to cpu, cuda or auto"):
        choose("gpu", has_gpu=False, answers=True)


def test_a_gpu_is_one_that_the_driver_names(tmp_path: Path) -> None:
    (tmp_path / "0000:00:1e.0").mkdir()
    assert install.has_nvidia_gpu(tmp_path)


def test_the_lock_for_a_cpu_lacks_cuda_and_nothing_else() -> None:
    names = re.findall(r"^([\w.-]+)==", LOCK, re.MULTILINE)
    kept = re.findall(r"^([\w.-]+)==", install.without_cuda(LOCK), re.MULTILINE)
    dropped = set(names) - set(kept)
    assert {"torch", "triton", "nvidia-cudnn-cu13"} <= dropped
    assert not [
        name for name in dropped if not name.startswith(("torch", "triton", "nvidia-", "cuda-"))
    ]
    assert {"transformers", "bitsandbytes", "prefect"} <= set(kept)


def test_hashes_stay_with_their_package() -> None:
    first, torch, last = (
        f"{name} \\\n    --hash=sha256:1\n" for name in ("a==1", "torch==2", "b==3")
    )
    assert install.without_cuda(first + torch + last) == first + last
    assert install.cpu_pin(first + torch + last) == "torch==2+cpu"


def test_pips_mirror_is_uvs_too_unless_uv_has_its_own() -> None:
    pip = {"PIP_INDEX_URL": "https://mirror.example/simple"}
    assert install.uv_environment(pip)["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    own = install.uv_environment({**pip, "UV_DEFAULT_INDEX": "https://own.example/simple"})
    assert own["UV_DEFAULT_INDEX"] == "https://own.example/simple"


def test_a_command_that_cannot_run_says_what_to_do() -> None:
    with pytest.raises(
        install.SetupError, match=r"ran `/no/such/tool x ...`; .* run the same again"
    ):
        install.run("/no/such/tool", "x")


def test_the_fingerprint_follows_every_file(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("a==1")
    first = install.fingerprint(lock)
    lock.write_text("a==2")
    assert install.fingerprint(lock) != first


def test_a_machine_with_neither_pip_nor_venv_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(install.SetupError, match=r"has neither; .* apt-get install python3-venv"):
        install.install_uv(tmp_path / "tools")
