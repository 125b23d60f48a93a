"""Ollama's chat and generate: `fields` (what a body says), `form` (what an answer looks like), `routes`."""
