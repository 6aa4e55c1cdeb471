"""What all three worlds agree on: plain data, and no word of how it is used.

Imports the standard library, pydantic and yaml, and nothing else of ours.
"""
