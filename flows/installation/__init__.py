"""What the chart's Jobs do for an installation, beside its runs.

`passwords.py` before watcher, worker and Prefect's server start, `uninstall.py` before they go.
"""
