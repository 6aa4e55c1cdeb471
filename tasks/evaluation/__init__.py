"""Whether an adapter may take the place of another: measured on the same rows, judged by a gate.

What is here is pure, and both sides read it. `pod/` is the program that measures, with a model in
memory; `task.py` is the step that asks it.
"""
