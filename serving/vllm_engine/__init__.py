"""vLLM as it comes, behind the front door: `vllm serve` as a process of its own, over loopback.

flags.py       how it is started (pure)
process.py     its process: start, what it says, end; reasons.py why it ended
client.py      its HTTP API, asked
keeper.py      one that is kept running: ready, watched, started again
wire.py        a continuation as its API has it, and what comes back (pure)
rows.py        a continuation under way, as pieces that a client reads
adapters.py    what it can do with an adapter, before it is given one; hot_adapters.py those it has
limits.py      what it does not compute, refused before it is asked
metrics.py     what it tells Prometheus, beside the front door's
engine.py      the `Engine`, and the requests in work

It is given token ids and gives token ids: what a text is, where it stops and which tokens end it is
the front door's to say, so that both engines say the same. Nothing of it is imported here.
"""
