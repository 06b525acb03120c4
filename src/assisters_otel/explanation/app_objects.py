"""Reads the app's own exceptions and responses, which may raise anything when they are asked.

An exception's context is an earlier exception, which was being handled. There are two kinds:

* A client has caught it, and has raised its own in place of it. Then it is the cause.
* The app has caught it, and has sent another request in the handler, to another server. Then it
  is older than that request, and says nothing of it.

The tracebacks show which one it is. That of a context starts in the frame that caught it. That of
an exception ends in the frame that raised it. An exception that the app itself raises in a handler
is about the one that it handles.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from assisters_otel.foreign_exceptions import is_known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

_MAX_CAUSES: Final = 20
"""The number of exceptions in a chain that are read. A chain may be a ring. That of a connection
that is refused to an async client of `openai` has five, and each layer of the app may add one."""

_HTTPX: Final = frozenset({"httpx", "httpx2"})
"""The packages whose responses raise when their `elapsed` is read, if no client received them."""

_MAX_FRAMES: Final = 2000
"""The frames of a traceback that are walked through. Python's own limit of a recursion is 1000."""


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


def status_of(thing: object) -> int | None:
    """Return the HTTP status of a response, or of an exception that has one itself, or None."""
    for name in ("status_code", "status"):
        status = attribute(thing, name)
        if isinstance(status, int) and status > 0:  # assisters has 0 where there was no answer
            return status
    return None


def causes_and_responses(thing: object) -> Iterator[object]:
    """Yield *thing*, its response and request, and the same of each of its causes."""
    if not isinstance(thing, BaseException):
        yield from (thing, attribute(thing, "response"), attribute(thing, "http_response"))
        return
    for error in causes_of(thing):
        yield error
        yield attribute(error, "response")
        yield attribute(error, "request")  # a response's request may have been sent again


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, explicit ones and contexts."""
    for _ in range(_MAX_CAUSES):
        yield error
        cause, context = attribute(error, "__cause__"), attribute(error, "__context__")
        if isinstance(cause, BaseException):
            error = cause
        elif isinstance(context, BaseException) and not _is_older(context, error):
            error = context
        else:
            return


def _is_older(context: BaseException, error: BaseException) -> bool:
    """Return True if the app was handling *context* when a client or the system raised *error*."""
    trace = context.__traceback__
    if trace is None or is_known(_module(trace)):
        return False
    # An OSError with a number is the system's, for example of a file that the handler opens.
    is_of_system = isinstance(error, OSError) and error.errno is not None
    response, handled = attribute(error, "response"), attribute(context, "response")
    has_answer = status_of(response) is not None and not is_made_up(response)
    is_other = has_answer and not _is_copy(response, handled)
    return is_of_system or is_other or is_known(raising_module(error))


def _is_copy(response: object, handled: object) -> bool:
    """Return True if a wrapper has copied the answer that was handled, as litellm does."""
    times = attribute(response, "elapsed"), attribute(handled, "elapsed")
    return times[0] is not None and times[0] == times[1]


def is_made_up(response: object) -> bool:
    """Return True for a response of httpx that no client has received.

    Wrappers of SDKs, such as litellm, make one for their own exception: with status 500 where
    there was no answer. A received one has its `elapsed` when it is closed, as a made one is.
    """
    if type(response).__module__.partition(".")[0] not in _HTTPX:
        return False
    return attribute(response, "is_closed") is True and attribute(response, "elapsed") is None


def raising_module(error: BaseException) -> object:
    """Return the name of the module that raised an exception, or None if it is not known."""
    trace = error.__traceback__
    for _ in range(_MAX_FRAMES):
        if trace is None or trace.tb_next is None:
            break
        trace = trace.tb_next
    return None if trace is None else _module(trace)


def _module(trace: TracebackType) -> object:
    return trace.tb_frame.f_globals.get("__name__")


def exceptions_in(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group and in the groups within it, or an empty list."""
    if all(kind.__name__ != "BaseExceptionGroup" for kind in type(error).__mro__):
        return []
    members = attribute(error, "exceptions")
    found: list[BaseException] = []
    for one in members if isinstance(members, tuple) else ():
        found += exceptions_in(one) or [one]
    return found
