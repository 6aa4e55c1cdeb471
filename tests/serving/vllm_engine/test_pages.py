"""vLLM's metrics beside the front door's."""

from serving.vllm_engine.metrics import beside, cache_usage, families

PAGE = """# HELP vllm:num_requests_running Running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 3.0
# HELP vllm:kv_cache_usage_perc Share.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# HELP vllm:prefix_cache_hits_total Hits.
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0"} 7.0
"""


def test_what_the_door_counts_itself_is_left_out_and_the_rest_is_passed_on() -> None:
    own = "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 1.0\n"
    passed = beside(PAGE, taken=families(own))
    assert "vllm:num_requests_running" not in passed
    assert 'vllm:prefix_cache_hits_total{engine="0"} 7.0\n' in passed


def test_the_caches_share_is_read_and_nought_where_it_is_not_told() -> None:
    assert cache_usage(PAGE) == 0.25
    assert cache_usage("") == 0
