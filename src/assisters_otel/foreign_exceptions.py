"""Foreign exceptions: raised by a signal handler in the library's code, or injected into a thread.

`fail_safe` swallows what the library's own steps raise. But an exception in such a step may belong
to the app. A job's time limit or a shutdown interrupts the code that happens to run, also the
library's. If it were swallowed, the job would go on. It is recognised as follows:

* An exception of a signal handler has a frame of that handler in its traceback. The handlers are
  those that `signal.getsignal` returns now.
* An exception of ``PyThreadState_SetAsyncExc`` has no frame of its own. It is known by its class,
  for the runtimes of `INJECTED`.
* Otherwise an exception is foreign if its class is from no package of `_KNOWN`, and its traceback
  has frames of these packages alone. The app's own code, such as a log handler, would have left a
  frame. Then the exception is a fault of that step, and is swallowed.

A library that wraps a foreign exception in its own keeps it as cause or context, so the whole chain
is looked through.
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, TracebackType

INJECTED: Final = frozenset(
    {
        "billiard.exceptions.SoftTimeLimitExceeded",
        "celery.exceptions.SoftTimeLimitExceeded",
        "dramatiq.middleware.threading.Interrupt",
        "dramatiq.threading.Interrupt",
        "func_timeout.exceptions.FunctionTimedOut",
        "rq.timeouts.BaseTimeoutException",
        "stopit.utils.TimeoutException",
    }
)
"""Exceptions that runtimes inject into a thread at any moment. Source: their modules."""

# Packages whose code runs, and may raise, in a step of the library without the app's doing.
_KNOWN: Final = sys.stdlib_module_names | frozenset(
    {
        "aiohttp", "anyio", "assisters", "assisters_otel", "brotli", "brotlicffi", "certifi",
        "charset_normalizer", "google", "grpc", "h11", "h2", "hpack", "httpcore", "httpcore2",
        "httpx", "httpx2", "idna", "multidict", "openai", "opentelemetry", "propcache",
        "pydantic", "pydantic_core", "requests", "sniffio", "trio", "urllib3", "wrapt", "yarl",
        "zstandard", "zstd",
    }
)  # fmt: skip


def of(error: BaseException) -> BaseException | None:
    """Return the foreign exception in an exception's chain of causes, or None.

    Args:
        error: An exception that a step of the library raised.
    """
    return _first(_chain(error, lambda one: one.__cause__))


def is_cancellation(error: BaseException) -> bool:
    """Return True if an exception says that the app has given up, and nothing of the API.

    It is no `Exception`, such as Ctrl-C or the cancellation of a task. Or it is foreign, such as
    the time limit of a job. `openai` raises its own exception directly from that one. A network
    error that a client's transport has made of it, such as ``ReadTimeout`` of a ``TimeoutError``,
    is what the app gets, and stays one.
    """
    if not isinstance(error, Exception):
        return True
    raised = [one for one in (error, error.__cause__) if one is not None]
    if any(map(_is_injected, raised)):
        return True
    # To ask for the handler of each signal takes a hundred times as long as this. An exception of
    # the network, of which an outage brings many, has only frames of the known packages.
    names = (name for one in raised for name, _ in _frames(one.__traceback__))
    return not all(map(is_known, names)) and _first(iter(raised)) is not None


def of_client(error: BaseException, handled: BaseException | None) -> BaseException | None:
    """Return the foreign exception that a client has turned into its own, or None.

    A client may convert any exception during a send into a network error, also with ``from None``.
    So the contexts are looked at as well as the causes.

    Args:
        error: An exception of the client's send.
        handled: The exception that was being handled when the send started, or None. It is older
            than the send, so the chain ends before it.
    """

    def before(one: BaseException) -> BaseException | None:
        earlier = one.__cause__ or one.__context__
        return None if earlier is handled else earlier

    return _first(_chain(error, before))


def _first(errors: Iterator[BaseException]) -> BaseException | None:
    handlers = frozenset(_handlers())
    for error in errors:
        if _is_injected(error):
            return error
        if handlers and any(code in handlers for _, code in _frames(error.__traceback__)):
            return error
    return None


def _chain(
    error: BaseException | None, before: Callable[[BaseException], BaseException | None]
) -> Iterator[BaseException]:
    """Yield an exception and those before it, each once, even if the chain is a ring."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = before(error)


def _handlers() -> Iterator[CodeType]:
    """Yield the code objects of the app's signal handlers."""
    for number in signal.valid_signals():
        handler: object = signal.getsignal(number)
        while isinstance(handler, partial):
            handler = handler.func
        if not callable(handler):  # SIG_DFL, SIG_IGN, None, or installed from C
            continue
        for function in (handler, type(handler).__call__):
            code = getattr(getattr(function, "__func__", function), "__code__", None)
            if code is not None:
                yield code


def _is_injected(error: BaseException) -> bool:
    kind = type(error)
    if any(f"{one.__module__}.{one.__qualname__}" in INJECTED for one in kind.__mro__):
        return True
    # No known package raises such a class, and no code of the app was called that might have.
    return not is_known(kind.__module__) and all(
        is_known(name) for name, _ in _frames(error.__traceback__)
    )


def is_known(module: object) -> bool:
    """Return True if a module is of a package that runs without the app's doing, or a client."""
    return isinstance(module, str) and module.partition(".")[0] in _KNOWN


def _frames(trace: TracebackType | None) -> Iterator[tuple[object, CodeType]]:
    """Yield the module's name and the code of each frame of a traceback."""
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        yield frame.f_globals.get("__name__"), frame.f_code
