"""What must hold before tokens from another machine count. Reads, raises `ProtocolViolation`, changes nothing.

The first stage may choose wrong tokens, and nothing here would notice; but it must not break clients, bills or the
repair of a request by sending what is no token, more than was asked for, or an end that does not exist.
"""

from math import isnan

from muster.errors import ProtocolViolation
from muster.spec.request import Finish, Progress, Request, Sampled

ROUNDING = 1e-3
"""A log probability may be that far above zero."""


def check_progress(request: Request, scored: int, progress: Progress, vocab_size: int) -> None:
    """Raise unless `progress` can be the answer of a first stage to `request`, of which `scored` tokens have scores."""
    end, most = progress.index + len(progress.tokens), request.sampling.max_tokens
    complete = _check_scores(request, scored, progress, vocab_size)
    if progress.index < 0 or end > most:
        raise _fault(f"tokens {progress.index} to {end} came where {most} were asked for")
    _require(progress.finish in (None, Finish.STOP, Finish.LENGTH), "a request ended in a way that does not exist")
    _require(progress.finish is not None or end < most or not complete, "a request went on behind its last token")
    _require(complete or (not progress.tokens and progress.finish is None), "tokens came before the prompt was scored")
    for sampled in progress.tokens:
        _check_sampled(request, sampled, vocab_size)


def _check_scores(request: Request, scored: int, progress: Progress, vocab_size: int) -> bool:
    """Whether the whole prompt is scored now. A gap in the scores is for others to find."""
    scores, wanted = progress.scores, request.num_scores
    if scores is None:
        return scored == wanted
    kept = min(request.sampling.prompt_logprobs or 0, vocab_size)
    _require(wanted > 0 and scores.alternatives == kept, "scores came that nobody asked for")
    inside = scores.first >= 1 and scores.count > 0 and scores.end <= wanted + 1
    _require(inside, "scores came for tokens that the prompt does not have")
    fault = scores.fault(scores.first, scores.count, kept, vocab_size)
    _require(fault is None, str(fault))
    return max(scored, scores.end - 1) == wanted


def _check_sampled(request: Request, sampled: Sampled, vocab_size: int) -> None:
    most = request.sampling.logprobs
    if most is None and sampled.logprob is None and not sampled.top and 0 <= sampled.token < vocab_size:
        return  # as nearly every token is: the rest would take as long as all else that is done with it here
    _require((sampled.logprob is None) == (most is None), "log probabilities came or lacked against what was asked for")
    if len(sampled.top) > (most or 0):
        raise _fault(f"{len(sampled.top)} alternatives came where {most} were asked for")
    tokens = (sampled.token, *(alternative.token for alternative in sampled.top))
    _require(all(0 <= token < vocab_size for token in tokens), "a token came that is not in the vocabulary")
    scores = (sampled.logprob or 0.0, *(alternative.logprob for alternative in sampled.top))
    _require(not any(isnan(score) or score > ROUNDING for score in scores), "a log probability is none")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _fault(what)


def _fault(what: str) -> ProtocolViolation:
    return ProtocolViolation(f"A first stage breaks the rules ({what}); ban it, or install the same version there.")
