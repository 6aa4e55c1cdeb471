"""Why vLLM has ended, from what it said last."""

import pytest

from serving.vllm_engine.reasons import why_it_ended
from tasks.contract.errors import EngineEnded, KaitoflowError

LOG = "(EngineCore pid=77) ERROR 11-30 14:03:01 [core.py:842] "


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("vllm: error: unrecognized arguments: --bogus-flag 1", "InvalidWorkspace"),
        (
            f"{LOG}ValueError: (16.0 GiB KV cache is needed, which is larger than the available KV",
            "OutOfMemory",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", "OutOfMemory"),
        (
            "ValueError: Free memory on device (3.1/14.6 GiB) on startup is less than desired",
            "OutOfMemory",
        ),
        ("RuntimeError: Failed to infer device type", "GpuIncompatible"),
        ("RuntimeError: The NVIDIA driver on your system is too old", "GpuIncompatible"),
        ("Model architectures ['Foo'] are not supported for now.", "ModelNotSupported"),
        ("safetensors_rust.SafetensorError: Error while deserializing", "WeightsUnavailable"),
    ],
)
def test_what_it_said_is_the_reason(said: str, reason: str) -> None:
    told = why_it_ended("asked", ["INFO loading", said, "INFO bye"], exit_code=1)
    assert told.reason == reason
    assert told.fix


def test_what_nobody_knows_is_told_in_its_last_words_of_an_error() -> None:
    said = ["RuntimeError: first", f"{LOG}RuntimeError: the last one", "  File x, line 3"]
    told = why_it_ended("asked", said, exit_code=1)
    assert isinstance(told, EngineEnded)
    assert told.found == "vLLM has ended (exit code 1): RuntimeError: the last one"


def test_an_end_by_a_signal_is_told_so() -> None:
    told: KaitoflowError = why_it_ended("asked", [], exit_code=-9)
    assert told.found == "vLLM has ended (it was ended by signal 9): it said nothing"
