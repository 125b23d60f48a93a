"""Where logs go: stderr, as JSON lines unless a person watches. Knows nothing of what is logged.

`MUSTER_LOG` sets the lowest level shown (debug, info, warning, error). By default a terminal shows warnings, for
the verbs say what matters in sentences, and warnings are sentences there, too; anything else gets everything from info
on.
"""

import logging
import os
import sys

import structlog
from structlog.typing import EventDict

from muster.cli.output import plain_words
from muster.errors import InvalidRequest


def configure_logs() -> None:
    watched = sys.stderr.isatty()
    level = os.environ.get("MUSTER_LOG") or ("warning" if watched else "info")
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise InvalidRequest(f"MUSTER_LOG is {level!r}; choose one of debug, info, warning and error.")
    last = in_words if watched else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def in_words(logger: object, method: str, event: EventDict) -> str:
    """An entry as a sentence among sentences: what happened, why, and what to do."""
    what = str(event.pop("event")).replace(".", " ").replace("_", " ")
    reason, remedy, traceback = (event.pop(name, "") for name in ("reason", "remedy", "exception"))
    facts = ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("level", "timestamp"))
    why = reason or facts
    sentence = f"{what[:1].upper()}{what[1:]}" + (f": {why}" if why else "") + (f"; {remedy}" if remedy else "")
    return plain_words(sentence.rstrip(".") + "." + (f"\n{traceback}" if traceback else ""))
