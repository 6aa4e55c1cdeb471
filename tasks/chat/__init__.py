"""Conversations as text: one renderer for all who need one, and what of its text is learned.

The dataset's step, the trainer and the server render here; nothing in it loads a model.
"""
