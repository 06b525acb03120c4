"""Reads the app's own exceptions and responses, which may raise anything when they are asked."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_CAUSES: Final = 5
"""The number of exceptions in a chain that are read. The longest chain, of a connection that is
refused to an async client of `openai`, has five."""


def _asked(read: Callable[..., object], *args: object) -> object:
    """Return what *read* returns, or None if the app's code, which it runs, raises."""
    with suppress(Exception):
        return read(*args)
    return None


def attribute(thing: object, name: str) -> object:
    """Return an attribute of *thing*, or None if it has none or raises.

    httpx raises RuntimeError for a request or response that was not set. A property of the app's
    own exceptions may raise anything.
    """
    return _asked(getattr, thing, name)


def text_of(error: object) -> str:
    """Return the text of an exception, or an empty one if that raises."""
    text = _asked(str, error)
    return text if isinstance(text, str) else ""


def header(message: object, name: str) -> bytes | None:
    """Return a header of a request or response, or None."""
    get = attribute(attribute(message, "headers"), "get")
    value = _asked(get, name) if callable(get) else None
    if isinstance(value, str):
        value = value.encode("latin-1", "replace")
    return value if isinstance(value, bytes) else None


def causes_and_responses(thing: object) -> Iterator[object]:
    """Yield *thing*, its response and request, and the same of each of its causes."""
    for _ in range(_MAX_CAUSES):
        yield thing
        yield attribute(thing, "response")
        if isinstance(thing, BaseException):  # a response's request may have been sent again
            yield attribute(thing, "request")
        cause = attribute(thing, "__cause__") or attribute(thing, "__context__")
        if cause is None:
            return
        thing = cause
