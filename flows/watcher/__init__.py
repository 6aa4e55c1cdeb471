"""The watcher: Workspaces of a cluster on one side, Prefect's runs on the other.

Thin: it knows neither models nor nodes. `decide.py` decides, `runs.py` does it, `operator.py` lets
kopf watch.
"""
