"""What the search found is what runs: the steps in flight and what they carry, beside the stages."""

from dataclasses import replace

import pytest

from muster.plan.quick.tables import PlanOptions
from muster.plan.serve import one_pipeline as module
from muster.plan.serve.one_pipeline import one_pipeline
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.ring import BatchRules
from muster.spec.pool import LinkSpeed
from tests.plan.fleets import node, pool, shape

MODEL = shape(context=65536)
OPTIONS = PlanOptions()


def fleet(memory_mib: float, latency_s: float):
    machines = pool(*(node(name, memory_mib, speed) for name, speed in (("a", 1.0), ("b", 1.3), ("c", 0.8))))
    return replace(machines, default_link=LinkSpeed(latency_s, 1e8))


@pytest.mark.parametrize(("memory_mib", "latency_s"), [(500, 0.001), (500, 0.2), (3000, 0.05), (30_000, 0.05)])
def test_steps_in_flight_and_what_they_carry_are_kept(monkeypatch, memory_mib, latency_s):
    answers = []
    search = module.plan_serving

    def searched(*arguments, **named):
        answers.append((search(*arguments, **named), arguments[2]))
        return answers[-1][0]

    monkeypatch.setattr(module, "plan_serving", searched)
    machines = fleet(memory_mib, latency_s)
    plan = one_pipeline(MODEL, machines, OPTIONS)
    ((found, workload),) = answers
    pipeline, wanted = plan.only_pipeline, found.plan.only_pipeline
    assert pipeline.stages == wanted.stages
    assert pipeline.serve.num_pages == wanted.serve.num_pages
    assert pipeline.serve.num_microbatches == max(len(pipeline.stages), wanted.serve.num_microbatches)
    assert pipeline.serve.prefill_tokens == OPTIONS.workspace.prefill_tokens
    assert pipeline.serve.batch == (wanted.serve.batch if wanted.serve.batch > BatchRules().max_batch else 0)
    forecast = serve_forecast(plan, machines, MODEL, workload, OPTIONS.constants)
    # An engine keeps at least as many steps in flight as stages, also where the search would have fewer and fuller.
    close = 0.01 if wanted.serve.num_microbatches >= len(pipeline.stages) else 0.05
    assert forecast.capacity_tokens_per_s == pytest.approx(found.forecast.capacity_tokens_per_s, rel=close)


def test_more_sequences_than_an_engine_takes_by_itself_are_told_to_it():
    pipeline = one_pipeline(MODEL, fleet(30_000, 0.05), OPTIONS).only_pipeline
    assert pipeline.serve.batch > BatchRules().max_batch
