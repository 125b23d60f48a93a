"""Characters to tokens and back. Knows nothing of HTTP, models or machines.

Read in this order: tokenizer (ids and bytes), chat (messages to a prompt), stream (tokens to text as they come),
tools (what a model writes to call a tool, and how that is read), calls, pipe and confined (a process of our own for
what a stranger's files ask for), sandbox (what that process does), kept (conversions that were made before).
"""
