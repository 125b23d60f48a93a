"""A conversation as every chat-like API means it, and how it becomes choices to generate. Knows no HTTP and no format.

    OpenAI's body ──┐                                      ┌──> OpenAI's chunks
    other bodies  ──┼──> Conversation ──prepare──> Choice ─┼──> other events
                    ┘         + GenerationOptions          ┘
                                           generate: Delta with events

Each API reads its own body into these records and writes the deltas of `generate.run_choices` in its own form.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from muster.api.generate import Choice, choices_of_prompt, without_prompt_scores
from muster.api.prompt import MAX_COUNTED, begin, check_score_count, encode_text, tokens_to_generate, with_named_stops
from muster.api.serving import Serving, Visit
from muster.errors import InvalidRequest, Unsupported
from muster.spec.request import Priority
from muster.spec.sampling import Sampling
from muster.text.calls import Ending, Message, Tool
from muster.text.chat import RenderedChat, render_chat_soon
from muster.text.tokenizer import Tokenizer
from muster.text.tools.families import AUTO, NONE, reading_of
from muster.text.tools.grammar import CallDemand, grammar_of_answer
from muster.text.tools.reading import Reading
from muster.text.tools.turn import MAX_CALLS


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the answer calls tools."""

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None
    """Under `required`, the one that is called."""


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    """Several calls in one answer are welcome."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """For the chat template, besides messages and tools."""
    grammar: str | None = None
    """What the text of the answer must fit, as `Sampling.grammar` has it. It has been tried."""
    ending: Ending = Ending.ASSISTANT_BEGINS
    parameter: str = "messages"
    """What the API calls the messages, for errors."""

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        return () if self.tool_choice.mode == "none" else self.tools


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to answer."""

    sampling: Sampling
    """Its `max_tokens` is not looked at."""
    n: int = 1
    stops: tuple[str, ...] = ()
    max_tokens: int | None = None
    """None: as many as the context has room for."""
    max_tokens_parameter: str = "max_tokens"
    """What the API calls it, for errors."""
    priority: Priority = Priority.INTERACTIVE


async def prepare(
    serving: Serving, visit: Visit, conversation: Conversation, options: GenerationOptions
) -> list[Choice]:
    """The choices to generate, numbered from 0. Everything that may be wrong with a conversation is found here."""
    tokenizer, wanted, tools = serving.tokenizer, options.max_tokens, conversation.callable_tools
    chat = await written_out(serving, conversation)
    reading = reading_of(tokenizer, chat.text, tools, most_calls(conversation, tokenizer), serving.options.tool_parser)
    grammar = await _grammar(tokenizer, visit.owner, conversation, reading)
    ids = await encode_text(serving, chat.text, conversation.parameter, chat.add_special_tokens)
    prompt = begin(tokenizer, ids, conversation.parameter)
    too_long = len(prompt) >= serving.backend.max_context
    parameter = conversation.parameter if wanted is None or too_long else options.max_tokens_parameter
    max_tokens = tokens_to_generate(serving, len(prompt), wanted, None, parameter)
    if options.sampling.prompt_logprobs is not None:
        check_score_count((1 + options.sampling.prompt_logprobs) * len(prompt))
    sampling = replace(with_named_stops(tokenizer, options.sampling, options.stops), max_tokens=max_tokens)
    if grammar:
        sampling = replace(sampling, grammar=grammar)
        sampling.validate()
    choices = choices_of_prompt(
        visit,
        prompt,
        sampling,
        n=options.n,
        stops=options.stops + chat.stop,
        priority=options.priority,
        reading=reading,
    )
    # All choices have the prompt in common.
    return choices[:1] + [without_prompt_scores(choice) for choice in choices[1:]]


async def written_out(serving: Serving, conversation: Conversation) -> RenderedChat:
    """As the model's template has it. Raises `InvalidRequest` where that cannot be."""
    check(conversation, serving.options.tool_parser)
    messages, variables, tools = conversation.messages, conversation.variables, conversation.callable_tools
    return await render_chat_soon(serving.tokenizer, messages, variables, tools, conversation.ending)


async def count_tokens(serving: Serving, conversation: Conversation) -> int:
    """Of the prompt, which may be longer than the context."""
    chat = await written_out(serving, conversation)
    parameter, special = conversation.parameter, chat.add_special_tokens
    return len(await encode_text(serving, chat.text, parameter, special, at_most=MAX_COUNTED))


def most_calls(conversation: Conversation, tokenizer: Tokenizer) -> int:
    """One of a template that could not show the model several."""
    several = conversation.parallel_tool_calls and tokenizer.conventions.takes_several_calls
    return MAX_CALLS if several and conversation.tool_choice.name is None else 1


async def _grammar(tokenizer: Tokenizer, owner: str, conversation: Conversation, reading: Reading | None) -> str:
    """What the tokens of the answer must fit. Raises `InvalidRequest` where nothing can be made of it."""
    choice = conversation.tool_choice
    wanted = [tool for tool in conversation.callable_tools if choice.name in (None, tool.name)]
    answer = conversation.grammar or ""
    grammar = grammar_of_answer(reading, CallDemand(wanted, choice.mode == "required", answer))
    if grammar == answer:
        return answer
    try:
        return await asyncio.wrap_future(tokenizer.grammars.checking(grammar, owner))
    except InvalidRequest as error:
        raise InvalidRequest(f"tools cannot be done: {error}; simplify the schemas.", "tools") from None


def check(conversation: Conversation, tool_parser: str = AUTO) -> None:
    """Raises `InvalidRequest` where its parts contradict each other."""
    choice, names = conversation.tool_choice, {tool.name for tool in conversation.tools}
    if not conversation.messages:
        raise InvalidRequest(
            f"There are no {conversation.parameter}; send at least one message.", conversation.parameter
        )
    if choice.mode == "required" and not names:
        raise InvalidRequest("tool_choice demands a call, but there are no tools; send tools.", "tool_choice")
    if names and choice.mode != "none" and tool_parser == NONE:
        raise Unsupported("This pool serves its model without tools; leave them out.", "tools")
    if choice.name is not None and choice.name not in names:
        raise InvalidRequest("tool_choice names a tool that is not among the tools; add it there.", "tool_choice")
    if conversation.ending == Ending.INSIDE_LAST and conversation.messages[-1].role != "assistant":
        raise InvalidRequest(
            "continue_final_message goes with an assistant's message at the end; add one, or leave the field out.",
            "continue_final_message",
        )
