"""How each step is done.

In a step, `task.py` is what Prefect runs and shows, `pod/` what runs inside the container.
"""
