"""Any interleaving of arrivals, cancellations, steps and slow links leaves the books right and the tokens the same."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from muster.errors import LimitReached
from muster.serve.options import EngineOptions
from muster.spec.request import Priority, Request
from muster.spec.sampling import Sampling
from tests.examples import examples
from tests.serve.guess.oracle import Oracle
from tests.serve.ring import Ring, alone, fake_ring

MAX_CONTEXT = 24
PAGE_SIZE = 3
EOS = frozenset({5})

samplings = st.builds(
    Sampling,
    max_tokens=st.integers(1, 10),
    temperature=st.sampled_from([0.0, 0.8]),
    seed=st.integers(-3, 3),
    top_k=st.sampled_from([0, 4]),
    frequency_penalty=st.sampled_from([0.0, 1.0]),
    stop_token_ids=st.sampled_from([(), (7, 9)]),
    ignore_eos=st.booleans(),
)
# Few different tokens, so that prompts share prefixes often.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=12).map(tuple)
emitted = st.one_of(st.just(()), st.lists(st.integers(10, 11), min_size=1, max_size=4).map(tuple))


class EngineStates(RuleBasedStateMachine):
    ring: Ring

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.answers: dict[str, list[int]] = {}

    @initialize(
        num_stages=st.integers(1, 3),
        num_pages=st.integers(8, 20),
        num_frames=st.sampled_from([0, 0, 8, 12, 16]),
        num_microbatches=st.integers(1, 4),
        prefill_tokens=st.integers(1, 9),
        max_batch=st.integers(1, 6),
        guesses=st.one_of(st.none(), st.integers(0, 9)),
    )
    def start(
        self,
        num_stages: int,
        num_pages: int,
        num_frames: int,
        num_microbatches: int,
        prefill_tokens: int,
        max_batch: int,
        guesses: int | None,
    ) -> None:
        self.num_stages = num_stages
        options = EngineOptions(
            max_context=MAX_CONTEXT,
            eos_token_ids=EOS,
            num_microbatches=1 if num_stages == 1 else num_microbatches,
            prefill_tokens=prefill_tokens,
            max_batch=max_batch,
            max_queue=5,
        )
        oracle = None if guesses is None else Oracle(self.answer, guesses)
        self.ring = fake_ring(
            num_stages, max(num_pages, num_frames), PAGE_SIZE, options, num_frames=num_frames, guessing=oracle
        )

    def answer(self, request: Request) -> list[int]:
        if request.id not in self.answers:
            self.answers[request.id] = alone(request, self.num_stages, MAX_CONTEXT, EOS)
        return self.answers[request.id]

    @rule(prompt=prompts, emitted=emitted, sampling=samplings, priority=st.sampled_from(Priority))
    def submit(self, prompt: tuple[int, ...], emitted: tuple[int, ...], sampling: Sampling, priority: Priority) -> None:
        request = Request(str(len(self.requests)), prompt, sampling, emitted[: sampling.max_tokens - 1], priority)
        try:
            self.ring.submit(request)
        except LimitReached:
            return
        self.requests.append(request)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        running = [one.id for one in self.requests if one.id not in self.ring.finished]
        if running:
            self.ring.cancel(data.draw(st.sampled_from(running)))

    @rule(times=st.integers(1, 4))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.ring.step()

    @rule(hop=st.integers(0, 2), times=st.integers(1, 3))
    def move(self, hop: int, times: int) -> None:
        for _ in range(times):
            self.ring.move(hop % self.num_stages)

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "ring"):
            self.ring.engine.check()

    def teardown(self) -> None:
        if not hasattr(self, "ring"):
            return
        self.ring.run()
        self.ring.engine.check()
        for request in self.requests:
            expected = self.answer(request)
            tokens = self.ring.tokens[request.id]
            if request.id in self.ring.cancelled:
                assert tokens == expected[: len(tokens)]
            else:
                assert tokens == expected, request
        stats = self.ring.engine.stats()
        assert stats.available_pages == stats.num_pages


EngineStates.TestCase.settings = examples(120, stateful_step_count=40)
TestEngineStates = EngineStates.TestCase
