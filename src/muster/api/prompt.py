"""A request's text to token ids that fit the context. Knows no routes and no sampling."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from muster.api.serving import Serving
from muster.errors import ContextTooLong, InvalidRequest
from muster.text.chat import Message, RenderedChat, render_chat
from muster.text.tokenizer import Tokenizer

# Shorter texts are encoded in well under a millisecond; handing them to a thread would cost more.
_ENCODE_IN_THREAD_FROM_CHARACTERS = 4_000
# Threads of their own: long texts wait for each other, and nobody else (keys are looked up in threads, too) for them.
_encoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="encode")


async def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], RenderedChat]:
    chat = await asyncio.to_thread(render_chat, tokenizer, messages)
    return await encode_text(tokenizer, chat.text, chat.add_special_tokens), chat


async def encode_text(tokenizer: Tokenizer, text: str, add_special_tokens: bool = True) -> list[int]:
    if len(text) < _ENCODE_IN_THREAD_FROM_CHARACTERS:
        return tokenizer.encode(text, add_special_tokens)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_encoders, tokenizer.encode, text, add_special_tokens)


def begin(tokenizer: Tokenizer, ids: Sequence[int], parameter: str) -> tuple[int, ...]:
    """`ids`, or the token that an empty prompt begins with: there must be something to continue."""
    if ids:
        return tuple(ids)
    if tokenizer.start_id is None:
        raise InvalidRequest("The prompt is empty; send at least one token.", parameter)
    return (tokenizer.start_id,)


def tokens_to_generate(
    serving: Serving, prompt_tokens: int, wanted: int | None, default: int | None, parameter: str
) -> int:
    """The checked number of tokens: what is wanted, else the default, else all that the context has room for."""
    context, model = serving.backend.max_context, serving.backend.model
    room = context - prompt_tokens
    if room < 1:
        raise ContextTooLong(
            f"The prompt has {prompt_tokens} tokens, but the context of '{model}' holds {context} for prompt and "
            "output together; shorten the prompt.",
            parameter,
        )
    if wanted is None:
        return room if default is None else min(default, room)
    if wanted > room:
        raise ContextTooLong(
            f"The prompt has {prompt_tokens} tokens and {wanted} more are asked for, but the context of '{model}' "
            f"holds {context} for both; shorten the prompt or ask for at most {room}.",
            parameter,
        )
    return wanted
