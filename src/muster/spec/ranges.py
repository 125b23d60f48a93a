"""What a number or a name may be in a file that a person wrote. Knows no file.

The limits are far from anything that exists; they keep typing errors out, and sums within what floats hold.
"""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from muster.spec.units import as_bandwidth, as_bytes, as_seconds

MAX_NAME = 100
LEAST_RATE, MAX_RATE = 1e3, 1e18
LEAST_BANDWIDTH, MAX_BANDWIDTH = 1.0, 1e15


def is_name(text: str) -> bool:
    return bool(text.strip()) and len(text) <= MAX_NAME and text.isprintable()


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"a name has 1 to {MAX_NAME} printable characters")
    return text


def _word(text: str) -> str:
    return text and _name(text)


Name = Annotated[str, AfterValidator(_name)]
Word = Annotated[str, AfterValidator(_word)]
"""A name, or nothing."""
Bytes = Annotated[float, BeforeValidator(as_bytes), Field(ge=1, le=1e15)]
Rate = Annotated[float, Field(ge=LEAST_RATE, le=MAX_RATE)]
"""Of a device: FLOP or bytes in a second."""
Bandwidth = Annotated[float, BeforeValidator(as_bandwidth), Field(ge=LEAST_BANDWIDTH, le=MAX_BANDWIDTH)]
"""Of a link, bytes in a second."""
Seconds = Annotated[float, BeforeValidator(as_seconds), Field(ge=0, le=3600)]
Dollars = Annotated[float, Field(ge=0, le=1e6)]
Watts = Annotated[float, Field(ge=0, le=1e6)]
