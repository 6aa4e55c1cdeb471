"""Prefect's command line in a process set up as ours are: `python -m flows.prefect_process`.

For `server start`, which lives long; everything else it does as `prefect` does.
"""

from prefect.cli import app

from flows.heap import settle_heap

if __name__ == "__main__":
    settle_heap()
    app()
