"""A GPU that was granted is used or the program ends, and says why."""

from pathlib import Path

import pytest

from serving.metrics import Metrics
from serving.model.gpus import (
    SeenGpus,
    asked_device,
    check_gpus,
    has_kernels_for,
    require_gpus,
    see_gpus,
)
from serving.model.loading import find_device
from serving.transformers_engine.engine import load_engine
from tasks.contract.errors import GpuIncompatible, InvalidWorkspace
from tasks.contract.programs.serving import ServerConfig

KERNELS = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize(
    ("capability", "kernels", "runs"),
    [
        ((7, 5), KERNELS, True),
        ((8, 9), KERNELS, True),
        ((12, 1), KERNELS, True),
        ((7, 0), KERNELS, False),
        ((11, 0), KERNELS, False),
        ((11, 0), (*KERNELS, "compute_90"), True),
        ((9, 0), ("sm_90a",), True),
        ((9, 1), ("sm_90a",), False),
        ((12, 0), ("compute_90a",), False),
        ((8, 0), ("gfx90a",), False),
        ((8, 0), (), False),
    ],
)
def test_a_kernel_runs_on_its_own_major_version_from_its_minor_on(
    capability: tuple[int, int], kernels: tuple[str, ...], *, runs: bool
) -> None:
    assert has_kernels_for(capability, kernels) is runs


def test_enough_gpus_that_there_are_kernels_for_will_do() -> None:
    check_gpus(2, SeenGpus(capabilities=((8, 0), (8, 0)), kernels=KERNELS))


def test_too_few_gpus_are_told_with_the_librarys_reason() -> None:
    seen = SeenGpus(capabilities=((8, 0),), kernels=KERNELS, complaint="driver is too old")
    words = r"2 GPU\(s\) were given .* can use 1 \(driver is too old\); update .* driver"
    with pytest.raises(GpuIncompatible, match=words):
        check_gpus(2, seen)


def test_a_card_without_kernels_is_named_with_what_there_is() -> None:
    seen = SeenGpus(capabilities=((8, 0), (7, 0)), kernels=KERNELS)
    with pytest.raises(GpuIncompatible, match=r"GPU 1 has .* 7\.0; .* kernels for sm_75, sm_80"):
        check_gpus(2, seen)


def test_a_card_that_is_not_asked_for_may_be_of_any_kind() -> None:
    check_gpus(1, SeenGpus(capabilities=((8, 0), (3, 5)), kernels=KERNELS))


def test_a_machine_without_a_gpu_has_none_to_give() -> None:
    assert see_gpus().capabilities == ()
    with pytest.raises(GpuIncompatible, match="can use 0"):
        require_gpus(1)


def test_the_environment_may_leave_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITOFLOW_DEVICE", "cpu")
    require_gpus(1)
    assert find_device() == "cpu"


def test_another_word_than_auto_or_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITOFLOW_DEVICE", "gpu")
    with pytest.raises(InvalidWorkspace, match=r"'gpu'; it may be auto .* or cpu; correct it"):
        asked_device()


def test_a_server_whose_gpu_cannot_be_used_loads_nothing(tmp_path: Path) -> None:
    config = ServerConfig(weights_dir=tmp_path / "none", served_model_name="toy", gpus=1)
    with pytest.raises(GpuIncompatible, match="can use 0"):
        load_engine(config, metrics=Metrics())
