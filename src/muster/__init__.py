"""Muster gathers mismatched, far-apart machines into one LLM service.

Read from the bottom of the tower: `spec` (the nouns), `wire` and `text`, `model` and `link`, `plan`, `serve`,
then the three state machines `broker`, `node` and `client`, the doors `api` and `cli`, and `lab`, a WAN on one machine.
"""

__version__ = "0.1.0"
