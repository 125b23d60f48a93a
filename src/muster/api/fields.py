"""What chat and text completions have in common: the fields of a request and their meaning for sampling.

Types are checked strictly and unknown fields are refused. Fields of the OpenAI API that Muster does not do are
declared, so that asking for them gets an honest `unsupported` instead of being ignored. Knows no routes.
"""

from collections.abc import Iterable, Mapping
from secrets import randbelow
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from muster.errors import InvalidRequest, UnknownModel, Unsupported
from muster.spec.model_name import model_name
from muster.spec.request import Priority
from muster.spec.sampling import MAX_LOGIT_BIAS, MAX_LOGPROBS, Sampling

MAX_CHOICES = 16
MAX_STOP_STRINGS = 4
MAX_STOP_CHARACTERS = 500

Value = TypeVar("Value", int, float)


def at_most(limit: int, parameter: str) -> BeforeValidator:
    """Refuses a long list or object before each of its entries is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > limit:
            raise InvalidRequest(f"{parameter} holds more than {limit} entries; send fewer.", parameter)
        return value

    return BeforeValidator(check)


class Strict(BaseModel):
    """Types are exact and unknown fields are refused. Every other body of JSON descends from this one.

    A body is read on the event loop, which also keeps the machines of the pool: whatever is in it, finding the
    first fault must be enough. A list therefore fails with its first wrong entry (`fail_fast`).
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _keep_one_unknown_field(cls, data: Any) -> Any:
        if not isinstance(data, dict) or len(data) <= len(cls.model_fields):
            return data
        unknown = next((name for name in data if name not in cls.model_fields), None)
        return {name: value for name, value in data.items() if name in cls.model_fields or name == unknown}


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(default=None, description="Accepted; chunks are never padded.")


class GenerationFields(Strict):
    model: str
    temperature: float | None = Field(default=None, description="0 to 2; 0 is greedy.")
    top_p: float | None = None
    top_k: int | None = Field(default=None, description="0 keeps all.")
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float] | None, at_most(MAX_LOGIT_BIAS, "logit_bias")] = Field(
        default=None, description="Token id (as text) to -100 ... 100."
    )
    seed: int | None = None
    n: int | None = Field(default=None, description=f"1 to {MAX_CHOICES} choices.")
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = Field(
        default=None, description=f"Up to {MAX_STOP_STRINGS} strings."
    )
    stop_token_ids: Annotated[list[int], Field(fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Literal["interactive", "offline"] | None = Field(
        default=None, description="Offline work waits for interactive work. `service_tier: flex` means the same."
    )
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    prompt_logprobs: int | None = Field(
        default=None, description=f"Scores of the prompt's tokens and of up to {MAX_LOGPROBS} others at each place."
    )
    user: Annotated[str | None, Field(description="Accepted; has no effect and is not kept.")] = None

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    """Fields that may only have one of these values, besides null."""

    def refuse_unsupported(self) -> None:
        for name, allowed in self.unsupported.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise Unsupported(f"This server does not do '{name}'; leave the field out.", name)

    def check_model(self, served: str) -> None:
        if model_name(self.model) != served:
            raise UnknownModel(
                f"This pool serves the model '{served}', not '{self.model[:200]}'; ask for '{served}'.", "model"
            )

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
        return tuple(stops)

    @property
    def wants_usage_chunk(self) -> bool:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options goes with stream: true; send both or neither.", "stream_options")
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def scheduling(self) -> Priority:
        offline = self.priority == "offline" or (self.priority is None and self.service_tier == "flex")
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
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=_or(self.temperature, defaults.temperature),
            top_k=_or(self.top_k, defaults.top_k),
            top_p=_or(self.top_p, defaults.top_p),
            min_p=_or(self.min_p, defaults.min_p),
            repetition_penalty=_or(self.repetition_penalty, defaults.repetition_penalty),
            presence_penalty=_or(self.presence_penalty, defaults.presence_penalty),
            frequency_penalty=_or(self.frequency_penalty, defaults.frequency_penalty),
            logit_bias=_read_bias(self.logit_bias or {}),
            seed=randbelow(2**63) if self.seed is None else self.seed,
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
