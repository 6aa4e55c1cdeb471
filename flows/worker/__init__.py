"""A Prefect worker that awaits hundreds of runs in one event loop, and the deployments it serves.

`in_process.py` is the worker; whatever is private to Prefect is in `engine.py` and nowhere else.
"""
