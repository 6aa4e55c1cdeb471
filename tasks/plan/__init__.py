"""What can be known of a run before anything is made or spent: one check a line, each with its fix.

`look` asks others (servers, registry, cluster, cloud), each for a short while; `checks.make_plan`
judges what was found, by topic: `model`, `data`, `image`, `machine`, `nodes`, `cost`. The command
line uses both without Prefect, the run's first step (`task`) with it.
"""
