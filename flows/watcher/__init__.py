"""The watcher: Workspaces of a cluster on one side, Prefect's runs on the other.

Thin: it knows neither models nor nodes. `runs.py` decides, `operator.py` lets kopf watch.
"""
