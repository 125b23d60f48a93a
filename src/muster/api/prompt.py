"""A request's text to token ids that fit the model and its context. Knows no routes and no sampling.

Whatever takes long is done by the tokenizer's workers: the event loop goes on meanwhile.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from muster.api.serving import Serving
from muster.errors import ContextTooLong, InvalidRequest
from muster.spec.sampling import Sampling
from muster.text.fill_in import FillIn
from muster.text.tokenizer import Tokenizer

MAX_COUNTED = 2**17
"""Tokens of a text that is only to be counted, whatever the context holds."""
MAX_SCORES = 2**19
"""Log probabilities of prompts in one answer."""


async def encode_text(
    serving: Serving, text: str, parameter: str, add_special_tokens: bool = True, at_most: int | None = None
) -> list[int]:
    """`at_most`: not the context bounds the text, but this."""
    limit = serving.backend.max_context if at_most is None else at_most
    try:
        ids = await asyncio.wrap_future(serving.tokenizer.encoding(text, add_special_tokens, at_most=limit))
        if at_most is not None and len(ids) > at_most:
            raise ContextTooLong("The text is too long.")  # found only now; said below
    except ContextTooLong:
        if at_most is not None:
            raise ContextTooLong(f"The text has more than {at_most} tokens; send less.", parameter) from None
        raise _no_room(serving, f"more than {limit}", parameter) from None
    except InvalidRequest as error:
        raise InvalidRequest(str(error), parameter) from error
    _check_rows(serving, ids, parameter)
    return ids


async def around_gap(serving: Serving, gap: FillIn, front: str | Sequence[int], behind: str) -> list[int]:
    """The prompt to which the model writes what stands between `front` and `behind`."""
    end = await encode_text(serving, behind, "suffix", add_special_tokens=False)
    if not isinstance(front, str):
        return gap.prompt(front, end)
    begins = await encode_text(serving, "", "prompt")  # what every text begins with, and nothing else
    return begins + gap.prompt(await encode_text(serving, front, "prompt", add_special_tokens=False), end)


def _check_rows(serving: Serving, ids: Sequence[int], parameter: str) -> None:
    """A tokenizer may have entries that were added after the model was made."""
    without = next((id for id in ids if id >= serving.backend.vocab_size), None)
    if without is not None:
        raise InvalidRequest(
            f"{parameter} holds {serving.tokenizer.display(without)[0]!r}, which the tokenizer knows but the model "
            "was never taught; leave it out.",
            parameter,
        )


def begin(tokenizer: Tokenizer, ids: Sequence[int], parameter: str) -> tuple[int, ...]:
    """`ids`, or the token that an empty prompt begins with: there must be something to continue."""
    if ids:
        return tuple(ids)
    if tokenizer.start_id is None:
        raise InvalidRequest("The prompt is empty; send at least one token.", parameter)
    return (tokenizer.start_id,)


def with_named_stops(tokenizer: Tokenizer, sampling: Sampling, stops: Sequence[str]) -> Sampling:
    """Stop at tokens that are called by name, as in "<|im_end|>": such a name never comes out as text.

    Where an answer has a minimum length, the model's own ends are named as well, so that they can be put off.
    """
    named = {id for id in map(tokenizer.named, stops) if id is not None}
    if sampling.min_tokens and not sampling.ignore_eos:
        named |= {*tokenizer.end_of_text_ids}
    named -= {*sampling.stop_token_ids}
    sampling = replace(sampling, stop_token_ids=(*sampling.stop_token_ids, *sorted(named)))
    sampling.validate()
    return sampling


def tokens_to_generate(
    serving: Serving, prompt_tokens: int, wanted: int | None, default: int | None, parameter: str
) -> int:
    """The checked number of tokens: what is wanted, else the default, else all that the context has room for."""
    context, model = serving.backend.max_context, serving.model
    room = context - prompt_tokens
    if room < (1 if wanted is None else min(wanted, 1)):
        raise _no_room(serving, f"{prompt_tokens}", parameter)
    if wanted is None:
        return room if default is None else min(default, room)
    if wanted > room:
        raise ContextTooLong(
            f"The prompt has {prompt_tokens} tokens and {wanted} more are asked for, but the context of '{model}' "
            f"holds {context} for both; shorten the prompt or ask for at most {room}.",
            parameter,
        )
    return wanted


def check_score_count(scores: int) -> None:
    """`scores` are all numbers that one answer would hold."""
    if scores > MAX_SCORES:
        raise InvalidRequest(
            f"The scores of these prompts are {scores} numbers and an answer holds at most {MAX_SCORES}; "
            "send fewer or shorter prompts, or ask for fewer alternatives.",
            "prompt",
        )


def _no_room(serving: Serving, tokens: str, parameter: str) -> ContextTooLong:
    context, model = serving.backend.max_context, serving.model
    return ContextTooLong(
        f"The prompt has {tokens} tokens, but the context of '{model}' holds {context} for prompt and "
        "output together; shorten the prompt.",
        parameter,
    )
