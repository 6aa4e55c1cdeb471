"""A model in memory, its adapters and its machine; for the server, the trainer and who compares."""
