"""Which of several parties gets which token of a prompt: clustered-arithmetic sharding. Pure arithmetic.

    cluster 4, three parties     token   0 1 2 3 | 4 5 6 7 | 8 9 10 11 | 12 13 ..
                                 party      0    |    1    |     2     |   0

Source: Cascade (arXiv 2507.05228, ICML 2025), where CompNode i gets R_i = {n : floor(n/c) mod alpha = i} and the
attention side is cut likewise into beta shards. As this project reconstructs it; the paper has no public code.
"""

from dataclasses import dataclass

CLIENT = -1
"""The role that no machine of the pool has."""


@dataclass(frozen=True, slots=True)
class TokenShards:
    """`cluster` successive tokens (c) go to one of `comp_nodes` (alpha), and attend in one of `shards` (beta).

    Roles have numbers: CompNode i is i, AttnNode (j, k), which holds queries of shard j against keys and values of
    shard k, is alpha + j * beta + k. The same machine may have several roles.
    """

    cluster: int
    comp_nodes: int
    shards: int

    def __post_init__(self) -> None:
        for name, value in (("cluster", self.cluster), ("comp_nodes", self.comp_nodes), ("shards", self.shards)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    @property
    def period(self) -> int:
        """Tokens after which the pattern of CompNodes and shards begins again, at most."""
        return self.cluster * self.comp_nodes * self.shards

    @property
    def roles(self) -> range:
        return range(self.comp_nodes + self.shards**2)

    def comp_of(self, position: int) -> int:
        return position // self.cluster % self.comp_nodes

    def shard_of(self, position: int) -> int:
        return position // self.cluster % self.shards

    def count_before(self, shard: int, position: int) -> int:
        """Tokens of a shard whose position is smaller."""
        rounds, rest = divmod(position, self.cluster * self.shards)
        return rounds * self.cluster + min(max(rest - shard * self.cluster, 0), self.cluster)

    def attn_role(self, queries: int, keys: int) -> int:
        return self.comp_nodes + queries * self.shards + keys

    def attn_of(self, role: int) -> tuple[int, int]:
        """(shard of the queries, shard of the keys) of an AttnNode."""
        return divmod(role - self.comp_nodes, self.shards)

    def is_comp(self, role: int) -> bool:
        return 0 <= role < self.comp_nodes

    def sees(self, role: int, position: int) -> bool:
        """Whether a role gets something that is made of this token alone at the first layer."""
        if self.is_comp(role):
            return self.comp_of(position) == role
        return self.shard_of(position) in self.attn_of(role)

    def name(self, role: int) -> str:
        """For people."""
        if role == CLIENT:
            return "the client"
        if self.is_comp(role):
            return f"CompNode {role}"
        queries, keys = self.attn_of(role)
        return f"AttnNode {queries}.{keys}"
