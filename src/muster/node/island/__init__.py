"""The members of one stage on several machines: how they find each other, and how they run the same steps.

Reading order: `gathering` (members become a group), `joint` (a stage and its cache, as the first member's engine sees
them), `address` (where other members reach this machine).
"""
