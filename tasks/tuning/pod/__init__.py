"""The trainer: `python -m tasks.tuning.pod CONFIG.json`. Rows in, a LoRA adapter with its card out."""
