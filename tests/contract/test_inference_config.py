"""inference_config.yaml is honoured flag by flag, or refused by name."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from tasks.contract.errors import InvalidWorkspace
from tasks.contract.inference_config import flags_by_verdict, parse_inference_config

HERE = Path(__file__).parent
KAITO = HERE.parent / "kaito/served_with_config.yaml"
# Of versions before: people's files have them still.
GONE = {"swap-space", "max-seq-len-to-capture", "num-scheduler-steps", "disable-log-requests"}


def test_each_flag_of_vllm_s_is_in_the_table_once() -> None:
    listed = set((HERE / "vllm_flags.txt").read_text().split())
    known = flags_by_verdict()
    assert listed <= set(known)
    of_before = set(known) - listed
    assert of_before >= GONE
    assert {known[name] for name in of_before} == {"none"}
    table = yaml.safe_load((HERE.parents[1] / "tasks/contract/vllm_flags.yaml").read_text())
    groups = [table["passed"], *(group["flags"] for group in table["refused"] + table["none"])]
    assert Counter(" ".join(groups).split()).most_common(1)[0][1] == 1


def test_kaito_s_own_example_is_honoured_and_what_it_does_not_do_is_told() -> None:
    text = yaml.safe_load_all(KAITO.read_text())
    config = parse_inference_config(next(iter(text))["data"]["inference_config.yaml"])
    assert config.flags == {
        "cpu-offload-gb": "0",
        "gpu-memory-utilization": "0.95",
        "max-model-len": "131072",
        "tensor-parallel-size": "2",
        "enable-chunked-prefill": None,
    }
    told = " ".join(config.notes)
    for name in ("max_probe_steps", "vllm.swap-space", "vllm.num-scheduler-steps"):
        assert name in told


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("enforce-eager: true", {"enforce-eager": None}),
        ("enforce_eager: 'true'", {"enforce-eager": None}),
        ("enable-prefix-caching: false", {"no-enable-prefix-caching": None}),
        ("no-enable-prefix-caching: true", {"no-enable-prefix-caching": None}),
        ("max-model-len:", {}),
        ("speculative-config: {method: ngram}", {"speculative-config": '{"method": "ngram"}'}),
        ("compilation-config.level: 3", {"compilation-config.level": "3"}),
    ],
)
def test_a_flag_is_written_as_vllms_command_line_has_it(
    line: str, flags: dict[str, str | None]
) -> None:
    assert parse_inference_config(f"vllm:\n  {line}\n").flags == flags


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vllm: {trust-remote-code: true}", "trust-remote-code; code of others"),
        ("vllm: {port: 8000}", "port; the front door listens"),
        ("vllm: {load-format: dummy}", "load-format; the Workspace's preset"),
        ("vllm: {data-parallel-size: 2}", "data-parallel-size; a server is one pod"),
        ("vllm: {max-modell-len: 1}", "no such flag; write max-model-len"),
        ("vllm: [1]", "write each flag in a line of its own"),
        ("vlm: {}", "there is none of that name"),
        ("- a", "no names with values"),
        ("vllm: {dtype: a, dtype: b}", "dtype is given twice"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name_with_what_to_do(text: str, told: str) -> None:
    with pytest.raises(InvalidWorkspace, match=told):
        parse_inference_config(text)


def test_nothing_asks_for_nothing() -> None:
    assert parse_inference_config(None).flags == parse_inference_config("").flags == {}


def test_a_number_that_is_none_is_told() -> None:
    config = parse_inference_config("vllm: {max-model-len: long}")
    with pytest.raises(InvalidWorkspace, match="no whole number"):
        config.number("max-model-len")
