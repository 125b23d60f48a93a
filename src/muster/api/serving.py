"""What all routes share, and what is remembered of one request while it is answered. Knows no routes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from muster import __version__
from muster.api.backend import Backend
from muster.api.grammar_shares import GrammarShares
from muster.api.ignored import IgnoredFields
from muster.api.keys import KeyRecord
from muster.errors import UnknownModel
from muster.metrics import Metrics
from muster.spec.model_name import model_name
from muster.text.tokenizer import Tokenizer
from muster.text.tools.families import AUTO

SYSTEM_FINGERPRINT = f"muster-{__version__}"


@dataclass(frozen=True, slots=True)
class ServingOptions:
    max_body_bytes: int = 8 * 1024 * 1024
    """Larger request bodies are refused unread."""
    body_s: float = 60.0
    """A body that is not complete after so long is refused: a connection held open costs one of few."""
    stall_s: float = 300.0
    """A request without any progress for so long ends with an error, so that nothing hangs for ever."""
    silence_s: float = 15.0
    """A stream that has nothing to say for so long says that it is still there: proxies and clients hang up else."""
    tool_parser: str = AUTO
    """The family of models as whose calls answers are read (`text/tools/families`); by the chat template, else."""
    allow_origins: tuple[str, ...] = ()
    """Web pages that may call besides those of this machine; `*` means all."""
    strict_fields: bool = False
    """Refuse a body with an unknown field instead of leaving the field out."""
    model_names: tuple[str, ...] = ()
    """What clients may call the model; the answers say the first. Its own name is understood all the same."""
    store_responses_s: float = 0.0
    """Answers of /v1/responses can be asked for again, and followed, for so long; 0 stores none."""


@dataclass(frozen=True, slots=True)
class Serving:
    backend: Backend
    tokenizer: Tokenizer
    metrics: Metrics
    options: ServingOptions = field(default_factory=ServingOptions)
    grammars: GrammarShares = field(default_factory=GrammarShares)

    @property
    def model(self) -> str:
        """What the answers call the model."""
        return self.model_names[0]

    @property
    def model_names(self) -> tuple[str, ...]:
        return self.options.model_names or (self.backend.model,)

    def check_model(self, written: str | None) -> None:
        """Raises `UnknownModel` for a name that is none of this pool's. No name means the model that there is."""
        if written is None or written in self.model_names or model_name(written) == self.backend.model:
            return
        raise UnknownModel(
            f"This pool serves the model '{self.model}', not '{written[:200]}'; ask for '{self.model}'.", "model"
        )


@dataclass(slots=True)
class Visit:
    """One HTTP request. Holds counts and names, never content."""

    path: str
    key: KeyRecord | None = None
    owner: str = ""
    """Id of the key that was shown; empty where none is asked for."""
    charge: Callable[[int], None] = lambda tokens: None
    """Told of every token that is read or generated, as it happens."""
    id: str = field(default_factory=lambda: uuid4().hex)
    client_id: str | None = None
    """What the client calls this request, for whoever looks for it in the log."""
    ignored: IgnoredFields = field(default_factory=IgnoredFields)
    """What the body has and no route knows."""
    arrived_s: float = field(default_factory=time.perf_counter)
    submitted_s: float | None = None
    """When its first prompt went to the pool."""
    first_token_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error_code: str | None = None
    left: bool = False
    """The client went away before the answer was complete."""

    def count_prompt(self, tokens: int) -> None:
        self.prompt_tokens += tokens
        self.charge(tokens)

    def count_completion(self, tokens: int) -> None:
        self.completion_tokens += tokens
        self.charge(tokens)

    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
