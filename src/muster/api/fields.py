"""What chat and text completions have in common: the fields of a request and their meaning for sampling.

Types are checked strictly. Fields of the OpenAI API and of well-known servers that would change an answer and that
Muster does not do are declared, so that asking for them gets an honest `unsupported`; what would change nothing is
accepted; what nobody knows is left out and named (`ignored`). Knows no routes.
"""

from collections.abc import Iterable, Mapping
from secrets import randbelow
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from muster.api.ignored import OF_THIS_REQUEST
from muster.errors import InvalidRequest, Unsupported
from muster.spec.request import Priority
from muster.spec.sampling import MAX_LOGIT_BIAS, MAX_LOGPROBS, Sampling

MAX_CHOICES = 16
MAX_STOP_STRINGS = 64
MAX_STOP_CHARACTERS = 500
MAX_STOP_CHARACTERS_IN_ALL = 4_000
"""Every one of them may have to be compared with every new piece of text."""
ANY_NUMBER = -1
"""What some clients write for "no limit" and "at random"."""

Value = TypeVar("Value", int, float)


def at_most(limit: int, parameter: str) -> BeforeValidator:
    """Refuses a long list or object before each of its entries is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > limit:
            raise InvalidRequest(f"{parameter} holds more than {limit} entries; send fewer.", parameter)
        return value

    return BeforeValidator(check)


class Strict(BaseModel):
    """Types are exact; unknown fields are left out and noted, or refused. All bodies of JSON descend from this one.

    A body is read on the event loop, which also keeps the machines of the pool: whatever is in it, finding the
    first fault must be enough. A list therefore fails with its first wrong entry (`fail_fast`).
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_unknown_fields(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        ignored = OF_THIS_REQUEST.get()
        unknown = [name for name in data if name not in cls.model_fields]
        if ignored is not None and not ignored.refuse:
            ignored.note(cls, unknown)
            unknown.clear()
        kept = unknown[:1]
        return {name: value for name, value in data.items() if name in cls.model_fields or name in kept}


class StreamOptions(Strict):
    include_usage: bool | None = Field(default=None, description="A last chunk says how many tokens there were.")
    continuous_usage_stats: bool | None = Field(default=None, description="Every chunk says how many so far.")
    include_obfuscation: bool | None = Field(default=None, description="Accepted; chunks are never padded.")

    without_effect: ClassVar[frozenset[str]] = frozenset({"include_obfuscation"})


class RefusableFields(Strict):
    """Fields that may only have some values. A class adds its own to those of the classes that it descends from."""

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    """Fields that may only have one of these values, besides null."""
    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Fields that are accepted and do nothing."""

    def refuse_unsupported(self) -> None:
        for name, allowed in all_of(type(self), "unsupported").items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise Unsupported(f"This server does not do '{name}'; leave the field out.", name)


def all_of(model: type[BaseModel], table: Literal["unsupported", "without_effect"]) -> dict[str, tuple[object, ...]]:
    """A model's own table and those of the classes that it descends from."""
    found: dict[str, tuple[object, ...]] = {}
    for kind in reversed(model.__mro__):
        own = kind.__dict__.get(table, {})
        found |= own if isinstance(own, Mapping) else dict.fromkeys(own, ())
    return found


class FieldsOfOthers(RefusableFields):
    """What other servers' clients ask for. Clients send many of these with the value that changes nothing."""

    add_special_tokens: Any = None
    allowed_token_ids: Any = None
    bad_words: Any = None
    dry_multiplier: Any = None
    early_stopping: Any = None
    include_stop_str_in_output: Any = None
    length_penalty: Any = None
    logits_processors: Any = None
    mirostat: Any = None
    repeat_penalty: Any = None
    return_token_ids: Any = None
    return_tokens_as_token_ids: Any = None
    skip_special_tokens: Any = None
    spaces_between_special_tokens: Any = None
    thinking_token_budget: Any = None
    top_a: Any = None
    truncate_prompt_tokens: Any = None
    typical_p: Any = None
    use_beam_search: Any = None
    xtc_probability: Any = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "add_special_tokens": (True,),
        "allowed_token_ids": (),
        "bad_words": ([],),
        "dry_multiplier": (0,),
        "early_stopping": (False,),
        "include_stop_str_in_output": (False,),
        "length_penalty": (1,),
        "logits_processors": ([],),
        "mirostat": (0,),
        "repeat_penalty": (1,),
        "return_token_ids": (False,),
        "return_tokens_as_token_ids": (False,),
        "skip_special_tokens": (True,),
        "thinking_token_budget": (),
        "top_a": (0,),
        "truncate_prompt_tokens": (),
        "typical_p": (0, 1),
        "use_beam_search": (False,),
        "xtc_probability": (0,),
    }
    without_effect: ClassVar[frozenset[str]] = frozenset({"spaces_between_special_tokens"})


class GenerationFields(FieldsOfOthers):
    model: str | None = Field(default=None, description="One of the pool's names; a pool serves one model.")
    temperature: float | None = Field(default=None, description="0 to 2; 0 is greedy.")
    top_p: float | None = None
    top_k: int | None = Field(default=None, description="0 and -1 keep all.")
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float] | None, at_most(MAX_LOGIT_BIAS, "logit_bias")] = Field(
        default=None, description="Token id (as text) to -100 ... 100."
    )
    seed: int | None = Field(default=None, description="-1 draws one at random, as leaving it out does.")
    n: int | None = Field(default=None, description=f"1 to {MAX_CHOICES} choices.")
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = Field(
        default=None, description=f"Up to {MAX_STOP_STRINGS} strings of {MAX_STOP_CHARACTERS_IN_ALL} characters in all."
    )
    stop_token_ids: Annotated[list[int], Field(fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    max_tokens: int | None = Field(default=None, description="-1 is all that the context has room for.")
    min_tokens: int | None = Field(default=None, description="Nothing that ends an answer comes before so many tokens.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Literal["interactive", "offline"] | int | None = Field(
        default=None,
        description="Offline work waits for interactive work. A number above 0 and `service_tier: flex` mean the same.",
    )
    service_tier: str | None = None
    prompt_logprobs: int | None = Field(
        default=None, description=f"Scores of the prompt's tokens and of up to {MAX_LOGPROBS} others at each place."
    )
    user: Annotated[str | None, Field(description="Accepted; has no effect and is not kept.")] = None

    without_effect: ClassVar[frozenset[str]] = frozenset({"user"})

    @property
    def choices(self) -> int:
        """The checked `n`."""
        n = 1 if self.n is None else self.n
        if not 1 <= n <= MAX_CHOICES:
            raise InvalidRequest(f"n is {n} but must lie in [1, {MAX_CHOICES}]; choose a value there.", "n")
        return n

    @property
    def stops(self) -> tuple[str, ...]:
        """The checked stop strings."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MAX_STOP_STRINGS:
            raise InvalidRequest(f"stop holds {len(stops)} strings; send at most {MAX_STOP_STRINGS}.", "stop")
        if any(not 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
            raise InvalidRequest(
                f"A stop string must have 1 to {MAX_STOP_CHARACTERS} characters; leave out or shorten the others.",
                "stop",
            )
        if sum(map(len, stops)) > MAX_STOP_CHARACTERS_IN_ALL:
            raise InvalidRequest(
                f"The stop strings have more than {MAX_STOP_CHARACTERS_IN_ALL} characters in all; shorten some.", "stop"
            )
        return tuple(stops)

    @property
    def wants_usage_chunk(self) -> bool:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options goes with stream: true; send both or neither.", "stream_options")
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_usage_always(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def scheduling(self) -> Priority:
        offline = self.priority == "offline" or (self.priority is None and self.service_tier == "flex")
        offline = self.priority > 0 if isinstance(self.priority, int) else offline
        return Priority.OFFLINE if offline else Priority.INTERACTIVE

    @property
    def prompt_scores(self) -> int | None:
        """How many alternatives to score at each place of the prompt; None for no scores of the prompt."""
        if self.prompt_logprobs is not None and self.stream:
            raise Unsupported(
                "Scores of a prompt do not come in pieces; leave out stream or prompt_logprobs.", "prompt_logprobs"
            )
        return self.prompt_logprobs

    def sampling(self, max_tokens: int, logprobs: int | None, vocab_size: int) -> Sampling:
        """Checked parameters, with this request's seed or a random one."""
        defaults = Sampling()
        if self.min_tokens is not None and self.min_tokens > max_tokens:
            raise InvalidRequest(
                f"min_tokens is {self.min_tokens}, but the answer has at most {max_tokens} tokens; ask for fewer.",
                "min_tokens",
            )
        sampling = Sampling(
            max_tokens=max_tokens,
            min_tokens=_or(self.min_tokens, defaults.min_tokens),
            temperature=_or(self.temperature, defaults.temperature),
            top_k=0 if self.top_k == ANY_NUMBER else _or(self.top_k, defaults.top_k),
            top_p=_or(self.top_p, defaults.top_p),
            min_p=_or(self.min_p, defaults.min_p),
            repetition_penalty=_or(self.repetition_penalty, defaults.repetition_penalty),
            presence_penalty=_or(self.presence_penalty, defaults.presence_penalty),
            frequency_penalty=_or(self.frequency_penalty, defaults.frequency_penalty),
            logit_bias=_read_bias(self.logit_bias or {}),
            seed=randbelow(2**63) if self.seed in (None, ANY_NUMBER) else _or(self.seed, 0),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            prompt_logprobs=self.prompt_scores,
        )
        sampling.validate()
        check_ids(sampling.logit_bias, vocab_size, "logit_bias")
        check_ids(sampling.stop_token_ids, vocab_size, "stop_token_ids")
        return sampling


def check_logprobs(value: int, parameter: str) -> int:
    if not 0 <= value <= MAX_LOGPROBS:
        raise InvalidRequest(
            f"{parameter} is {value} but must lie in [0, {MAX_LOGPROBS}]; choose a value there.", parameter
        )
    return value


def check_token_count(value: int | None, parameter: str, least: int = 1) -> int | None:
    """The number of tokens that is asked for; None for no number."""
    if value == ANY_NUMBER:
        return None
    if value is not None and value < least:
        raise InvalidRequest(f"{parameter} is {value} but must be at least {least}; ask for more.", parameter)
    return value


def check_unicode(text: str, parameter: str) -> str:
    """JSON can spell half a surrogate pair, which is no character and has no tokens."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{parameter} holds half a surrogate pair; send valid Unicode.", parameter) from None
    return text


def check_ids(ids: Iterable[int], vocab_size: int, parameter: str) -> None:
    """Raise `InvalidRequest` for an id that no row of the embedding answers to."""
    for id in ids:
        if not 0 <= id < vocab_size:
            raise InvalidRequest(
                f"{parameter} holds the token id {id}, but this model's ids go from 0 to {vocab_size - 1}; "
                "use ids of this model's tokenizer.",
                parameter,
            )


def _read_bias(written: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in written.items()}
    except ValueError:
        raise InvalidRequest(
            'logit_bias has a key that is not a token id; use ids written as text, for example {"42": -100}.',
            "logit_bias",
        ) from None


def _or(value: Value | None, default: Value) -> Value:
    return default if value is None else value
