"""What a running pool should do next: mend what is lost, improve the rest. No torch, no clock.

Reading order: `change` (what going from one pipeline to another costs and brings), `moves` (plans that differ little),
`pinned` (layers that the operator has fixed), `compact` (a pipeline beside which others are to have machines),
`choose` (the smallest change that is needed, or the one that gains most).
"""
