"""What a plan says about an engine reaches it."""

from muster.serve.options import EngineOptions
from muster.spec.plan import ServeSettings


def test_an_engine_runs_what_the_plan_says():
    settings = ServeSettings(64, 16, num_microbatches=3, batch=100, prefill_tokens=128, eos_token_ids=(2, 7))
    assert EngineOptions.of(settings, max_context=4096, epoch=5) == EngineOptions(
        max_context=1024,
        eos_token_ids=frozenset({2, 7}),
        epoch=5,
        num_microbatches=3,
        prefill_tokens=128,
        max_batch=100,
    )


def test_what_the_plan_leaves_open_is_for_the_engine():
    options = EngineOptions.of(ServeSettings(640, 16, num_microbatches=1), max_context=4096, epoch=1)
    assert options == EngineOptions(max_context=4096, epoch=1)
