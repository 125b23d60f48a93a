"""A wide-area pool on one machine: real processes, shaped links, faults on purpose.

Reading order: `faults` (what can go wrong, as words), `regions` (who is how far from whom), `processes` (a head and
its workers as child processes), `rehearsal` (the demo: run the prompts undisturbed, run them again and kill a worker,
compare), `prompts` (held-out text to continue).
"""
