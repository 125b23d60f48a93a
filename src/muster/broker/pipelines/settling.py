"""How long the first placement of a pipeline waits for machines that are still on their way. Pure."""

from collections.abc import Sequence, Set

from muster.broker.pipelines.job import JobOptions
from muster.spec.plan import Pipeline
from muster.spec.pool import NodeId


class Settling:
    def __init__(self, options: JobOptions, is_over: bool = False) -> None:
        self.is_over = is_over
        self._options = options
        self._useful_since_s: float | None = None
        self._joined_s = 0.0

    def usable(self, now_s: float) -> None:
        """The pool gained something."""
        self._joined_s = now_s
        if self._useful_since_s is None:
            self._useful_since_s = now_s

    def is_quiet(self, now_s: float) -> bool:
        """Whether nobody has joined just now: machines tend to come in a group."""
        return now_s - self._joined_s >= self._options.settle_s

    def waits_for(
        self, here: Set[NodeId], absent: Sequence[str], keep: Pipeline | None, now_s: float
    ) -> tuple[bool, str]:
        """Whether to wait on, and for what in one sentence if that is not merely a moment.

        `absent` are pinned machines that are not here; `keep` is what a head that was restarted remembers.
        """
        if self.is_over:
            return False, ""
        if self._useful_since_s is None:
            return True, ""
        options, waited_s = self._options, now_s - self._useful_since_s
        if absent and waited_s < options.pin_wait_s:
            names = ", ".join(absent)
            return (
                True,
                f"Waiting up to {options.pin_wait_s:.0f} s for {names} because of --pin or --plan; start it there.",
            )
        if keep is not None:  # its machines come back one after the other
            return not (here >= set(keep.nodes()) or waited_s >= options.longest_settle_s), ""
        if len(here) < options.min_nodes:
            wanted = options.min_nodes
            return (
                True,
                f"{len(here)} of {wanted} machines are here and have shown their speed; join more, or {options.fewer}.",
            )
        return not (self.is_quiet(now_s) or waited_s >= options.longest_settle_s), ""
