"""Anthropic's Messages: `fields` (what a body says), `form` (what an answer looks like), `routes`."""
