"""All roles of a private session in one process: for tests, and for attacks that look at what a role was sent.

Each CompNode runs in a thread of its own, as its pass waits in the middle for what the others send.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Lock

import torch
from torch import Tensor

from muster.errors import MusterError
from muster.model.ends import build_ends
from muster.model.stage import build_stage
from muster.model.weights import Weights
from muster.private.attn_node import AttnNode, Letter
from muster.private.client import NewIds, PendingStep, PrivateClient
from muster.private.comp_node import CompNode
from muster.private.network import private_network
from muster.spec.token_shards import CLIENT, TokenShards
from muster.wire.frame import Payload
from muster.wire.messages.private import HiddenRows, PartialRows, PrivateMessage

Watch = Callable[[PrivateMessage, Payload], None]


def _unwatched(message: PrivateMessage, payload: Payload) -> None:
    """Nobody looks."""


class LocalSession:
    """One step at a time. `watch` gets every message between two roles."""

    def __init__(
        self,
        weights: Weights,
        rule: TokenShards,
        dtype: torch.dtype = torch.float32,
        watch: Watch = _unwatched,
        max_tokens: int = 0,
    ) -> None:
        """`max_tokens` of a sequence; 0: as many as the model allows."""
        network = private_network(weights.config_json)
        cpu = torch.device("cpu")
        stage = build_stage(weights, 0, len(network.layers), dtype, cpu, body=True)
        stages = [stage] + [
            build_stage(weights, 0, len(network.layers), dtype, cpu, body=True) for _ in range(1, rule.comp_nodes)
        ]
        limit = max_tokens or network.max_context
        self.client = PrivateClient(build_ends(weights, dtype, cpu), rule, network.windows, limit)
        self.comp_nodes = [CompNode(role, rule, each, self._post) for role, each in enumerate(stages)]
        attending = [role for role in rule.roles if not rule.is_comp(role)]
        self.attn_nodes = {role: AttnNode(role, rule, network.layers, dtype, limit) for role in attending}
        self._locks = {role: Lock() for role in attending}
        self._watch = watch
        self._pending: PendingStep | None = None

    def step(self, new: Sequence[NewIds], every: bool = False) -> Tensor:
        """Logits of the last new token of each sequence, or of all: float32 [S, V]. Raises `MusterError`."""
        self._pending, letters = self.client.begin(new)
        with ThreadPoolExecutor(self.client.rule.comp_nodes) as threads:
            running = []
            for message, payload in letters:
                if isinstance(message, HiddenRows):
                    self._watch(message, payload)
                    running.append(threads.submit(self._run, message, payload))
                else:
                    self._post(message, payload)
            wait(running)
        for each in running:
            each.result()
        return self._pending.logits(every)

    def last_states(self) -> Tensor:
        """After the last layer, of the first sequence of the last step [T, H]."""
        assert self._pending is not None
        return self._pending.states(0)

    def forget(self, sequence: int) -> None:
        for message, payload in self.client.forget(sequence):
            self._post(message, payload)

    def _run(self, message: HiddenRows, payload: Payload) -> None:
        try:
            self.comp_nodes[message.receiver].run(message, payload)
        except MusterError as error:
            for node in self.comp_nodes:
                node.give_up(error)
            raise

    def _post(self, message: PrivateMessage, payload: Payload) -> None:
        self._watch(message, payload)
        if message.receiver == CLIENT:
            assert self._pending is not None
            assert isinstance(message, HiddenRows)
            self._pending.take(message, payload)
        elif isinstance(message, PartialRows):
            self.comp_nodes[message.receiver].take(message, payload)
        else:
            with self._locks[message.receiver]:
                letters: list[Letter] = self.attn_nodes[message.receiver].handle(message, payload)
            for letter in letters:
                self._post(*letter)


def generate_greedily(session: LocalSession, prompt: Sequence[int], count: int, sequence: int = 0) -> list[int]:
    """The likeliest token, `count` times."""
    new, start, made = tuple(prompt), 0, []
    for _ in range(count):
        logits_SV = session.step([NewIds(sequence, start, new)])
        start += len(new)
        new = (int(logits_SV[-1].argmax()),)
        made.append(new[0])
    session.forget(sequence)
    return made
