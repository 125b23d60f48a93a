"""How the next token is chosen. Knows nothing of tensors."""

from dataclasses import dataclass, field

from muster.errors import InvalidRequest

MAX_LOGPROBS = 20
MAX_STOP_TOKENS = 64
MAX_LOGIT_BIAS = 1024
MAX_GRAMMAR_BYTES = 2 * 2**20
MAX_GRAMMARS = 128
"""That one stage holds at once."""
MAX_GRAMMARS_BYTES = 4 * 2**20
"""Of all of them as text. Compiled they take some fifty times as much."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters with the meaning (and the ranges) of the OpenAI API, plus the usual extensions.

    Order of work on the logits of one row: repetition penalty over prompt and output, presence and frequency
    penalties over the output, bias, minimum length, grammar, temperature, top-k, top-p, min-p. Temperature 0 is greedy
    and ignores the rest of the randomness.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    """None of `stop_token_ids` is chosen before so many tokens were emitted. To put off the model's own end, too, name
    it among them."""
    temperature: float = 1.0
    top_k: int = 0
    """0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int = 0
    """Key of the counter-based generator; it counts positions of the sequence, and tokens of the vocabulary."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """None: none. k: the chosen token's and the k best tokens'."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt. Then `max_tokens` may be 0."""
    grammar: str = ""
    """What the output must be, as a Lark grammar in the dialect of llguidance (`text/constraint` writes them); the
    end-of-text tokens are allowed where it is complete, and nowhere else. Empty: anything."""

    def validate(self) -> None:
        """Raise `InvalidRequest` naming the parameter that is out of range."""
        _check_range("max_tokens", self.max_tokens, 1 if self.prompt_logprobs is None else 0, 2**31 - 1)
        _check_range("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.min_tokens and self.grammar:  # which may leave nothing but the end
            raise InvalidRequest(
                "min_tokens does not go with a form that the output must have; send one.", "min_tokens"
            )
        _check_range("temperature", self.temperature, 0.0, 2.0)
        _check_range("top_k", self.top_k, 0, 2**31 - 1)
        _check_range("top_p", self.top_p, 0.0, 1.0, low_open=True)
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("repetition_penalty", self.repetition_penalty, 0.0, 10.0, low_open=True)
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_range("seed", self.seed, -(2**63), 2**63 - 1)
        if self.logprobs is not None:
            _check_range("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.prompt_logprobs is not None:
            _check_range("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        if len(self.stop_token_ids) > MAX_STOP_TOKENS:
            raise InvalidRequest(f"stop_token_ids holds more than {MAX_STOP_TOKENS} ids; send fewer.", "stop_token_ids")
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise InvalidRequest(f"logit_bias holds more than {MAX_LOGIT_BIAS} entries; send fewer.", "logit_bias")
        for bias in self.logit_bias.values():
            _check_range("logit_bias", bias, -100.0, 100.0)
        # A character has up to four bytes: most texts need no copy to be found short enough.
        if 4 * len(self.grammar) > MAX_GRAMMAR_BYTES and len(self.grammar.encode()) > MAX_GRAMMAR_BYTES:
            limit = f"{MAX_GRAMMAR_BYTES / 2**20:g} MiB"
            raise InvalidRequest(f"The grammar of the output has more than {limit}; ask for less structure.", "grammar")


def _check_range(name: str, value: float, low: float, high: float, low_open: bool = False) -> None:
    # `not (a <= x <= b)` rather than `x < a or x > b`: NaN must fail too.
    if not (low <= value <= high) or (low_open and value == low):
        bracket = "(" if low_open else "["
        raise InvalidRequest(f"{name} is {value} but must lie in {bracket}{low}, {high}]; choose a value there.", name)
