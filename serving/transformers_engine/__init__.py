"""Our own engine: continuous batching over any transformers causal language model, on CPU and GPU.

scheduling.py     who waits, and who may join
batch.py          rows in work: prefill, and a step for all (forward.py, kv_cache.py)
sampling.py       the next token of each row (grammar.py: of a schema)
rows.py           a continuation, and its tokens as what a client reads
hot_adapters.py   adapters that come and go between two steps
"""
