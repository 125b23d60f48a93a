"""Guesses of the tokens that follow, which one pass through the ring then checks together.

Reading order: `guesser` (what a guesser is), `ngrams` (from the text itself), `acceptance` (how often guesses are
right), `trip` (what a pass costs), `guessing` (which guesser, and how many).
"""
