"""One step through the layers of a stage, and what the last stage makes of its logits: scores and tokens.

Knows nothing of requests, queues or the page budget.
"""

from torch import Tensor

from muster.serve.batch import make_batch
from muster.serve.sampling import Sampler
from muster.serve.scoring import Scoring
from muster.serve.stage import CacheT, RunsLayers
from muster.wire.messages.generate import Step, StepDone


def run_step(stage: RunsLayers[CacheT], cache: CacheT, sampler: Sampler, step: Step, x: Tensor) -> Tensor | StepDone:
    """The hidden state [T, H], or what the head of the ring gets to know where `stage` is the last."""
    places = cache.enter(step.rows, step.copies)
    batch = make_batch(step.rows, cache.page_size, stage.device, places)
    if not stage.is_last:
        return stage.run(batch, cache, x.to(stage.device), lambda logits_CV: None)
    for slot in step.release:
        sampler.release(slot)
    for admit in step.admit:
        sampler.admit(admit)
    for grammar in step.forget:
        sampler.forget(grammar)
    scoring = Scoring(step.rows, sampler.prompts())
    logits_SV = stage.run(batch, cache, x.to(stage.device), scoring.look)
    slots = [row.slot for row in step.rows if row.samples]
    sampled = sampler.sample(logits_SV, slots)
    complete, broken = sampler.ends(slots)
    return StepDone(
        epoch=step.epoch,
        sequence=step.sequence,
        sampled=sampled,
        scores=scoring.results(),
        complete=complete,
        broken=broken,
    )
