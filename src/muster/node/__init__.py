"""One machine in the pool: joins by ticket, measures itself, holds a stage, passes steps along.

Reading order: `state` (pure: lease, assignments), `accept` (which of them to believe), `devices` and `measure` (what
this machine has and what it can do), `fetch` (weights by digest from the head), `hub` (and from the hub), `shelf`
(stages in memory), `loading` (an assignment becomes a stage), `runtime` (one stage at work), `stages` (all of them, and
who may talk to which), `neighbours` (what this node dials), `incoming` (what dials it), `announce` (how it tells what
happens), `worker` (the asyncio shell), `process` (a worker as a process of its own).
"""
