"""The dataset program: fetch, verify and report on what a model is to be tuned on.

Run as `python -m tasks.dataset.pod CONFIG.json`. The bytes come in through `fetch` (behind
`tasks.remote.guard`), are recognised in `sniff`, become rows in `formats`, take one of three shapes
in `shapes` and are counted by `tokens`; `prepare` writes them to `train.jsonl`, and `report.json`
beside it.
"""
