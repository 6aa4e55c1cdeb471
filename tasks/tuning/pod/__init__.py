"""The trainer, run as `python -m tasks.tuning.pod CONFIG.json`: rows in, a LoRA adapter out."""
