"""The places a command line looks at: this machine, or a cluster.

`base.py` is the seam, `local.py` and `cluster.py` stand behind it; `place.py` opens one.
"""
