"""The dataset program: fetch, verify and report on what a model is to be tuned on.

Run as `python -m tasks.dataset.pod CONFIG.json`. The bytes come in through `fetch` (behind `guard`),
are recognised in `sniff`, become rows in `formats`, take one of three shapes in `shapes`, are counted
by `tokens`, and end through `prepare` in
`train.jsonl` beside `report.json`.
"""
