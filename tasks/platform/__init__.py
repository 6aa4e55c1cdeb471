"""Where pods run: `base.py` is the seam, `local` and `kubernetes` stand behind it.

`current.py` picks the one that the settings name.
"""
