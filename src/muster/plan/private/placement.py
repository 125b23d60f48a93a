"""Roles for machines, so that every machine's gap, and that of any few owners who talk, is large enough.

All machines of an owner count as one party. Clusters are as long as the smallest gap that is asked for demands, and no
longer: every hidden stretch is made of whole clusters, and longer ones would show more tokens in a row. CompNode j and
the AttnNodes of shard j see the same tokens, so a machine may have many roles within its owner's block of shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement
from math import lcm

from muster.errors import DoesNotFit, InvalidRequest
from muster.plan.private.designs import Blocks, Design, designs, fewest_parties
from muster.plan.private.gaps import Sight, sight, sight_of
from muster.spec.token_shards import TokenShards

DEFAULT_MIN_GAP = 17
"""A search that a language model guides then takes 10^16 forward passes in the median; at gap 3 it takes 10^2."""


@dataclass(frozen=True, slots=True)
class PrivateMember:
    """A machine that may take part."""

    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class PrivatePlacement:
    rule: TokenShards
    roles: dict[str, tuple[int, ...]]
    """By machine, of those that take part."""
    owners: dict[str, str]
    design: str
    colluders: int
    past: frozenset[str] = frozenset()
    """Owners whose machines had roles and lost them: they have read their part of the same prompts."""

    def sight_of(self, machines: Sequence[str]) -> Sight:
        """What these machines see together of a long prompt."""
        return sight(self.rule, {role for machine in machines for role in self.roles[machine]})

    def worst(self) -> tuple[tuple[str, ...], Sight]:
        """The owners that see most together, of as many as may talk, and what they see: smallest gap first."""
        owners = sorted(set(self.owners.values()))
        count = min(self.colluders, len(owners))
        sights = [(coalition, self.sight_of(self.machines_of(coalition))) for coalition in combinations(owners, count)]
        return min(sights, key=lambda each: (each[1].smallest_gap, -each[1].seen, -each[1].longest_run))

    def machines_of(self, owners: Sequence[str]) -> list[str]:
        return [machine for machine in self.roles if self.owners[machine] in owners]


def place(
    members: Sequence[PrivateMember], min_gap: int = DEFAULT_MIN_GAP, colluders: int = 1, spares: int = 0
) -> PrivatePlacement:
    """The placement that shows least. `members` in the order in which they should be taken (near ones first).

    So many owners as `spares` get no role, if the others suffice: they may replace a machine that is lost.

    Raises `DoesNotFit` with the smallest number of owners that would do, `InvalidRequest` on senseless numbers.
    """
    if min_gap < 2 or colluders < 1:
        raise InvalidRequest(
            f"A smallest gap of {min_gap} with {colluders} colluders protects nothing; ask for at least 2 and 1.",
            "min_gap",
        )
    parties = list(dict.fromkeys(member.owner for member in members))
    kept_back = min(spares, max(0, len(parties) - fewest_parties(colluders)))
    found = designs(len(parties) - kept_back, colluders)
    if not found:
        needed = fewest_parties(colluders)
        raise DoesNotFit(
            f"{len(members)} machines of {len(parties)} owners cannot keep a prompt from "
            f"{'each of them' if colluders == 1 else f'any {colluders} that talk'}; {needed} owners are the fewest "
            f"that can: add {needed - len(parties)} more."
            if needed > len(parties)
            else f"No placement for {colluders} colluders is known here; ask for fewer."
        )
    return _seat(members, parties, found[0], min_gap, colluders)


def with_spare(placement: PrivatePlacement, lost: str, spares: Sequence[PrivateMember]) -> PrivatePlacement:
    """With another machine in the place of one that is lost, so that nobody reads more of what was sent before.

    That is a machine of an owner who has no role, or of the lost one's. Raises `DoesNotFit` if there is none.
    """
    mine = placement.owners[lost]
    reading = ({owner for machine, owner in placement.owners.items() if machine != lost} | placement.past) - {mine}
    for spare in spares:
        if spare.owner not in reading and spare.name not in placement.roles:
            roles = {spare.name if name == lost else name: given for name, given in placement.roles.items()}
            owners = {spare.name if name == lost else name: owner for name, owner in placement.owners.items()}
            owners[spare.name] = spare.owner
            past = placement.past | ({mine} - set(owners.values()))
            return replace(placement, roles=roles, owners=owners, past=past)
    raise DoesNotFit(
        "A machine is lost, and every other one belongs to an owner who would read more of the same prompts with its "
        "roles; add a machine of another owner."
    )


def check_history(history: Sequence[PrivatePlacement], min_gap: int) -> None:
    """What owners have read under all of these placements together of one prompt, which a conversation sends again.

    Raises `DoesNotFit` where that is more than was asked for.
    """
    colluders, owners = history[-1].colluders, sorted({owner for each in history for owner in each.owners.values()})
    tokens = 2 * max(each.rule.cluster for each in history) * lcm(*(each.rule.comp_nodes for each in history))
    for coalition in combinations(owners, min(colluders, len(owners))):
        mine = [
            (each.rule, {role for machine in each.machines_of(coalition) for role in each.roles[machine]})
            for each in history
        ]
        seen = [any(rule.sees(role, at) for rule, roles in mine for role in roles) for at in range(tokens)]
        found = sight_of(seen)
        if found.smallest_gap < min_gap or found.sees_all:
            raise DoesNotFit(
                f"With these roles {' and '.join(owner[:10] for owner in coalition)} would have a gap of "
                f"{found.smallest_gap} in the prompts of this session, where {min_gap} is asked for; find machines of "
                "other owners, or start again with other prompts."
            )


def _seat(
    members: Sequence[PrivateMember], parties: Sequence[str], design: Design, min_gap: int, colluders: int
) -> PrivatePlacement:
    blocks = _in_good_order(design)
    rule = TokenShards(min_gap - 1, design.shards, design.shards)
    machines = {
        party: [member.name for member in members if member.owner == parties[party]] for party in range(len(blocks))
    }
    taken: dict[str, list[int]] = {name: [] for party in machines.values() for name in party}
    for shard in range(rule.comp_nodes):
        _give(taken, [name for party, block in enumerate(blocks) if shard in block for name in machines[party]], shard)
    for one, other in combinations_with_replacement(range(rule.shards), 2):
        may = [name for party, block in enumerate(blocks) if {one, other} <= block for name in machines[party]]
        for role in dict.fromkeys((rule.attn_role(one, other), rule.attn_role(other, one))):
            _give(taken, may, role)
    owners = {member.name: member.owner for member in members}
    roles = {name: tuple(mine) for name, mine in taken.items() if mine}
    return PrivatePlacement(rule, roles, {name: owners[name] for name in roles}, design.name, colluders)


def _give(taken: dict[str, list[int]], may: Sequence[str], role: int) -> None:
    """To the machine that has fewest roles, the first of equals."""
    min((taken[name] for name in may), key=len).append(role)


def _in_good_order(design: Design) -> Blocks:
    """The same design with its shards in an order in which nobody sees long runs of clusters.

    Two shards change places as long as that makes the longest run shorter, or fewer parties have it.
    """
    order = list(range(design.shards))
    best = _runs(design.blocks, order)
    improved = True
    while improved:
        improved = False
        for one, other in combinations(range(design.shards), 2):
            order[one], order[other] = order[other], order[one]
            runs = _runs(design.blocks, order)
            if runs < best:
                best, improved = runs, True
            else:
                order[one], order[other] = order[other], order[one]
    at = {shard: place for place, shard in enumerate(order)}
    return tuple(frozenset(at[shard] for shard in block) for block in design.blocks)


def _runs(blocks: Blocks, order: Sequence[int]) -> list[int]:
    """The longest run of clusters of each party, longest first."""
    longest = []
    for block in blocks:
        run = most = 0
        for shard in (*order, *order):
            run = run + 1 if shard in block else 0
            most = max(most, run)
        longest.append(most)
    return sorted(longest, reverse=True)
