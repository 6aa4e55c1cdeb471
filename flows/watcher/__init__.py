"""The watcher: Workspaces of a cluster on one side, Prefect's runs on the other.

Thin: it knows neither models nor nodes. `decide.py` decides, `watcher.py` does it, by Prefect's
runs (`runs.py`), and `operator.py` lets kopf watch.
"""
