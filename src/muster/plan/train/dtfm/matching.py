"""The bottleneck matching between two groups of machines, by kind: raise a threshold until everybody has a partner.

Everybody takes what is free within the threshold, first of its own kind; those who are left move others on (augmenting
paths). Where that fails, no matching within the threshold holds all of them, so it rises to the next pair that the
search could reach, and what has been matched stays matched. Sets of kinds are bit masks.
"""

from bisect import bisect_right

Mix = dict[int, int]
"""How many machines of each kind, without zeros."""


class Reach:
    """Which kinds a kind can have as partners within a threshold. `level[a][b]` is the rank of the cost of a pair."""

    def __init__(self, level: list[list[int]]) -> None:
        self.level = level
        self._ranks: list[list[int]] = []
        self._masks: list[list[int]] = []
        for ranks in level:
            masks, mask = [0], 0
            by_rank = sorted(range(len(ranks)), key=ranks.__getitem__)
            for kind in by_rank:
                mask |= 1 << kind
                masks.append(mask)
            self._ranks.append([ranks[kind] for kind in by_rank])
            self._masks.append(masks)

    def mask(self, kind: int, threshold: int) -> int:
        return self._masks[kind][bisect_right(self._ranks[kind], threshold)]


class Matching:
    """`pairs[a][b]` machines of kind a of the first group have a partner of kind b; `threshold` is the highest rank."""

    def __init__(self, reach: Reach, one: Mix, two: Mix) -> None:
        self.reach, self.one, self.two = reach, one, two
        self.room = dict(two)
        self.present = self.free = sum([1 << kind for kind in two])
        self.pairs: dict[int, Mix] = {kind: {} for kind in one}
        self.seen, self.reached = 0, set[int]()
        self.threshold = self._least()
        self.allowed = {kind: reach.mask(kind, self.threshold) for kind in one}
        for kind, left in [(kind, self._take(kind, count)) for kind, count in self._own_kind()]:
            for _ in range(left):
                while not self._place(kind):
                    self._raise()

    def _least(self) -> int:
        """Nobody's partner is better than its best one."""
        level, one, two = self.reach.level, self.one, self.two
        rows = [[level[a][b] for b in two] for a in one]
        least: int = max(max([min(row) for row in rows]), max([min(column) for column in zip(*rows, strict=True)]))
        return least

    def _own_kind(self) -> list[tuple[int, int]]:
        """Pair what is in both groups; returns what is left of each kind of the first."""
        left = []
        for kind, count in self.one.items():
            if self.allowed[kind] & self.free & 1 << kind:
                count -= self._pair(kind, kind, count)
            if count:
                left.append((kind, count))
        return left

    def _pair(self, a: int, b: int, count: int) -> int:
        some = min(count, self.room[b])
        self.room[b] -= some
        if not self.room[b]:
            self.free ^= 1 << b
        self.pairs[a][b] = self.pairs[a].get(b, 0) + some
        return some

    def _take(self, kind: int, count: int) -> int:
        """Give `count` machines of this kind whatever is free; returns how many are left."""
        while count and (choice := self.allowed[kind] & self.free):
            count -= self._pair(kind, (choice & -choice).bit_length() - 1, count)
        return count

    def _place(self, kind: int) -> bool:
        """A partner for one more machine, moving others on; remembers whom it reached."""
        self.seen, self.reached = 0, {kind}
        return self._augment(kind)

    def _augment(self, kind: int) -> bool:
        if self._take(kind, 1) == 0:
            return True
        while choice := self.allowed[kind] & self.present & ~self.seen:
            lowest = choice & -choice
            self.seen |= lowest
            b = lowest.bit_length() - 1
            for other, partners in self.pairs.items():
                if other in self.reached or not partners.get(b):
                    continue
                self.reached.add(other)
                if self._augment(other):
                    partners[b] -= 1
                    self.pairs[kind][b] = self.pairs[kind].get(b, 0) + 1
                    return True
        return False

    def _raise(self) -> None:
        """To the lowest rank that leads from somebody reached to a kind that was not."""
        level = self.reach.level
        unseen = [b for b in self.two if not self.seen >> b & 1]
        self.threshold = min([level[a][b] for a in self.reached for b in unseen])
        self.allowed = {kind: self.reach.mask(kind, self.threshold) for kind in self.one}
