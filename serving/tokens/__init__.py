"""Texts as tokens and back, the same for every engine; knows no model, only its tokenizer.

prompts.py      conversations and texts as token ids
text.py         tokens as text, while they come (spelling.py: one by one)
defaults.py     the tokens that end a text, and the sampling that the model's authors recommend
grammars.py     which schemas an answer can be held to
as_trained.py   whether an adapter answers as it did where it was tuned
blends.py       the weighted sum of adapters
"""
