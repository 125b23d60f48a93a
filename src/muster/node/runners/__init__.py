"""Stages at work: one runner for each stage that this node holds, one subfolder for each kind of work.

Reading order: `base` (what a runner is, and what it gets from the node), `thread` (where it computes), `serve`,
`train`, `private`, then `registry` (which kind of work is done by which of them).
"""
