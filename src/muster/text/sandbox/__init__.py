"""What runs in a process of its own, because it runs what a stranger wrote. Imported by nothing else of Muster.

Read in this order: loop (calls within limits), convert (a model directory to a description; one process, at loading),
answer (text to ids and messages to prompts; the process that stays), pieces, template and turns, which `answer` uses.
"""
