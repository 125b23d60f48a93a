"""One machine in the pool: joins by ticket, measures itself, holds a stage, passes steps along.

Reading order: `events` (what it is told, what it wants done), `state` (pure: lease, assignments), `accept` (which of
them to believe), `devices` and `measure` (what this machine has and what it can do), `fetch` (weights by digest from
the head), `hub` (and from the hub), `stage_cache` (stages in memory), `loading` (an assignment becomes layers in
memory), `neighbours` (what this node dials), `probes` and `reports` (how far away others are), `runners` (stages at
work, by kind of work), `place` (what a placement gets of this node), `stages` (all of them, by epoch), `incoming` (what
dials it), `announce` (how it tells what happens), `worker` (the asyncio shell), `process` (a worker as a process of its
own).
"""
