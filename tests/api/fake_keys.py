"""Keys in a dictionary."""

from dataclasses import dataclass, field


@dataclass
class FakeRecord:
    id: str
    name: str = "someone"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_left: int | None = None


@dataclass
class FakeKeys:
    records: dict[str, FakeRecord] = field(default_factory=dict)
    usage: list[tuple[str, int, int]] = field(default_factory=list)

    def has_keys(self) -> bool:
        return bool(self.records)

    def verify(self, key: str) -> FakeRecord | None:
        return self.records.get(key)

    def record_usage(self, key_id: str, prompt_tokens: int, completion_tokens: int) -> None:
        self.usage.append((key_id, prompt_tokens, completion_tokens))
