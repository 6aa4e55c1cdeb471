"""The pod that stays: a front door of HTTP, and an engine behind it that generates.

`app.py` puts the door together: `door/` says who may ask, `routes/` has the endpoints, `api/` what
they take and give, `versions.py` which adapter a name means. `engine.py` is the seam: the words of
both sides; `transformers_engine/` and `vllm_engine/` stand behind it. `tokens/` makes tokens of
texts and texts of tokens for both. `model/` and `weights/` are a model in memory and on disk, for
other programs too.
"""
