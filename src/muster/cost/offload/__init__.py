"""What a stage costs that is larger than its device: seconds and bytes of each tier. Pure arithmetic, no search.

Reading order: `rates` (of a machine, measured or derived), `load` (bytes and FLOPs of a block's steps), `step` (their
seconds, with what overlaps what), `room` (bytes that each tier must have).
Beside it `flexgen`: the published model, to the letter, for comparison.
"""
