"""What is planted in tests' requests and answers, and a look for it in all that a run exports.

`memory.Memory` and `otlp.Collector` show it everything that they get, and so does a handler of our
logger; a test in which something was found fails (leak_check.py). Needs nothing but the library,
since `otlp` is used without pytest, too.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import ReadableSpan

KEY: Final = "ask_live_0123456789"
EMAIL: Final = "planted@example.com"
MESSAGE: Final = f"planted-message for {EMAIL}, who sent {KEY}"
"""What the fake API says in every envelope, where a test has no message of its own."""

# Every key of the tests has these digits, every prompt and message of those that ask these words.
_KEYS: Final = r"0123456789|1234567890|[Bb]earer[ +%]"
_WORDS: Final = r"planted|what.somebody.typed"
_ANY: Final = re.compile(f"{_KEYS}|{_WORDS}")
_ANY_BYTES: Final = re.compile(_ANY.pattern.encode())
_ONLY_KEYS: Final = re.compile(_KEYS)
_AROUND: Final = 60

_found: list[str] = []


def look(told: str | bytes, where: str, *, words: bool = True) -> None:
    """Look at what is about to leave.

    Args:
        told: All of it.
        where: For whoever reads that it was found.
        words: Whether prompts and messages are looked for, and not keys alone.
    """
    if isinstance(told, bytes):
        at = _ANY_BYTES.search(told)
    else:
        at = (_ANY if words else _ONLY_KEYS).search(told)
    if at is not None:
        start, end = max(at.start() - _AROUND, 0), at.end() + _AROUND
        _found.append(f"{where}: {told[start:end]!r}")


def take() -> list[str]:
    """Give what was found since the last time."""
    found = _found.copy()
    _found.clear()
    return found


@atexit.register
def _end() -> None:
    """Fail for what nobody took: in a script's own process, or after the last test."""
    if _found:
        sys.stderr.write("\n".join(["leaked:", *_found, ""]))
        sys.stderr.flush()
        os._exit(70)  # at exit an exception would change nothing


def look_at_span(span: ReadableSpan) -> None:
    """Look at a span: name, status, attributes, events, links."""
    where = f"span {span.name}"
    look(f"{span.name}\n{span.status.description}", where)
    _look_at(span.attributes or {}, where)
    for event in span.events:
        look(event.name, where)
        _look_at(event.attributes or {}, where)
    for link in span.links:
        _look_at(link.attributes or {}, where)


def look_at_points(metric: str, attributes: Mapping[str, Any]) -> None:
    """Look at the attributes of a metric's point, or of its exemplars."""
    _look_at(attributes, f"metric {metric}")


def _look_at(attributes: Mapping[str, Any], where: str) -> None:
    for name, value in attributes.items():
        # A message is there if it was asked for; a stack quotes the test's own lines.
        words = name not in {names.ERROR_MESSAGE, "exception.stacktrace"}
        look(f"{name}={value}", where, words=words)


class Handler(logging.Handler):
    """Looks at what our logger says, with the fields that a machine reads."""

    def emit(self, record: logging.LogRecord) -> None:
        look(self.format(record), "log")
        for name, value in vars(record).items():
            if name.startswith(("assisters", "error", "http", "url")):
                look(f"{name}={value}", "log")
