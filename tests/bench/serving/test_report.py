from collections import Counter
from dataclasses import replace

import pytest

from tests.bench.serving.measures import Outcome
from tests.bench.serving.repetitions import Measured, Repetitions
from tests.bench.serving.report import Results, Used, as_json, table


def outcome(speed: float, *, failed: int = 0) -> Outcome:
    figures = {"output_tokens_per_s": speed, "ttft_p50_ms": 100.0, "tpot_p50_ms": 10.0}
    return Outcome(figures, Counter({"HTTP 429": failed} if failed else {}))


def used(rss_mb: float) -> Used:
    return Used(
        "1.0",
        "as shipped",
        ready_s=10.0,
        peak_rss_mb=rss_mb,
        rss_shared_once_mb=rss_mb / 2,
        cpu_s=60.0,
    )


@pytest.fixture
def results() -> Results:
    """Two of three repetitions of ours beside a peer that is half as fast; one request failed."""
    by: dict[str, dict[str, Repetitions]] = {
        "ours": {"16": [outcome(100.0), outcome(80.0), None]},
        "ours_mixed": {"16": [outcome(70.0), outcome(56.0), outcome(60.0)]},
        "one_at_a_time": {"16": [outcome(50.0, failed=1), outcome(40.0), outcome(20.0)]},
    }
    return Results(
        asked={"model": "tiny", "clients": [16]},
        machine={"processor": "fast", "cores": 2},
        servers={"ours": used(500.0), "ours_mixed": used(600.0), "one_at_a_time": used(1000.0)},
        left_out={"vllm_cpu": "it is not there"},
        measured=Measured(by, ["ours 16, repetition 3: no time"]),
    )


def test_medians_stand_under_server_clients_and_figure(results: Results) -> None:
    told = as_json(results)["one_at_a_time"]["16"]
    assert told["output_tokens_per_s"] == 40.0
    assert told["spread"]["output_tokens_per_s"] == [20.0, 50.0]
    assert told["ttft_p50_ms"] == 100.0
    assert told["tpot_p50_ms"] == 10.0


def test_failed_requests_of_all_repetitions_are_counted_with_their_reason(results: Results) -> None:
    told = as_json(results)["one_at_a_time"]["16"]
    assert told["failed"] == 1
    assert told["failures"] == {"HTTP 429": 1}


def test_what_a_server_took_stands_beside_its_figures(results: Results) -> None:
    told = as_json(results)["ours"]
    assert told["ready_s"] == 10.0
    assert told["peak_rss_mb"] == 500


def test_ours_is_held_against_each_peer_and_with_adapters_against_itself(results: Results) -> None:
    ratios = as_json(results)["ratios"]
    assert ratios["ours/one_at_a_time"]["16"]["output_tokens_per_s"] == 2.0
    assert ratios["ours/one_at_a_time"]["peak_rss_mb"] == 0.5
    assert ratios["ours_mixed/ours"]["16"]["output_tokens_per_s"] == 0.7


def test_who_took_no_part_and_what_was_not_done_is_told_everywhere(results: Results) -> None:
    told, page = as_json(results), table(results)
    assert told["left_out"] == {"vllm_cpu": "it is not there"}
    assert told["not_measured"] == ["ours 16, repetition 3: no time"]
    assert "left out: vllm_cpu: it is not there" in page
    assert "not measured: ours 16, repetition 3: no time" in page
    assert "failed: one_at_a_time, 16: 1 x HTTP 429" in page


def test_the_table_shows_medians_spread_and_ratios(results: Results) -> None:
    lines = table(results).splitlines()
    row = next(line for line in lines if line.startswith("one_at_a_time"))
    assert row.split()[1:6] == ["2.00", "40.0", "(20.0", "to", "50.0)"]


def test_a_busy_machine_is_told(results: Results) -> None:
    assert "the machine was busy" not in table(results)
    busy = replace(results, machine={"cores_of_others": 1.1})
    assert "the machine was busy: others used 1.1 cores" in table(busy)


def test_a_peer_alone_is_told_without_ratios(results: Results) -> None:
    alone = Results(
        asked={},
        machine={},
        servers={"one_at_a_time": used(1000.0)},
        left_out={},
        measured=Measured({"one_at_a_time": results.measured.by["one_at_a_time"]}),
    )
    assert as_json(alone)["ratios"] == {}
    assert "one_at_a_time" in table(alone)
