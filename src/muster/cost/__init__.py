"""What a piece of work costs on a machine: seconds and bytes from sizes and speeds. Pure arithmetic, no search.

Reading order: `roofline` (time), `memory` (space).
"""
