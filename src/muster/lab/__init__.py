"""A wide-area pool on one machine: real processes, shaped links, faults on purpose.

Reading order: `faults` (what can go wrong, as words), `world` (where faults happen in one process), `processes` (a head
and its workers as child processes), `streams` (completions over HTTP), `rehearsal` (answer the prompts undisturbed,
answer them again and kill a worker, compare), `stage_set` (who plays in the demo), `prompts` (held-out beginnings);
`wan` (hosts and links with real packets, for root) and `hosted` (a head and its workers there).
"""
