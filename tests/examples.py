"""How often a property is tried: a share of what the profile of Hypothesis says, which `make thorough` raises.

Each run draws other examples, so that many quick runs find what one long run finds.
"""

from typing import Any

from hypothesis import settings

PROFILES = {"usual": 40, "thorough": 500}


def examples(percent: int, **options: Any) -> settings:
    """So many of the profile's examples: fewer where one takes long, more where the cases are many."""
    return settings(max_examples=max(1, settings().max_examples * percent // 100), **options)
