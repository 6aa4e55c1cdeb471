"""`kaitoflow doctor`: an installation, or this machine, looked at from outside in.

`machine.py` and `cluster.py` look; `verdicts.py` says what that means, and what to do. Nothing is
changed, and one look that fails stops no other.
"""
