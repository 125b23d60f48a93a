"""The OpenAI-compatible front door. Knows HTTP and JSON; generates through one small protocol, `backend`.

Read in this order: backend (what is behind), keys (who may enter), errors and error_shapes (what a refusal looks
like), ignored, fields and prompt (what a request says), generate and stall (tokens to text, choice by choice),
conversation (what every chat-like API makes of a body, and choices of that), grammar_shares (the room for grammars),
answer (JSON, server-sent events, and clients who leave), blocks and framing (answers in blocks, and how streams
travel), chat, completions, tokenize, anthropic, responses, ollama, models, health, admin (the doors), body, origins,
answer_headers, asked_once and gate (what every request passes), app and description (what the server says that it
does), listen, server and impatience (the socket, and clients who hold it for nothing).
"""
