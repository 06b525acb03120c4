"""Exceptions that are not ours, wherever they turn up: a signal handler's, and injected ones.

Such an exception says that what is under way is over: a job's time limit, a shutdown. It has met
our code only because that happened to run.
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
        "func_timeout.exceptions.FunctionTimedOut",
        "rq.timeouts.BaseTimeoutException",
        "stopit.utils.TimeoutException",
    }
)
"""What runtimes have raised in a thread that does something else. Source: their modules."""

# Whose code may run in a step of ours without being plugged in by the app, and may raise.
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
    """Return what is not ours of an exception: itself, what it was raised from, or None.

    Args:
        error: What was raised in a step of ours.
    """
    return _first(_chain(error, lambda one: one.__cause__))


def of_client(error: BaseException, handled: BaseException | None) -> BaseException | None:
    """Return what is not the client's of an exception: what it was made of, or None.

    A client takes what looks like the network's for that, and may say so with ``from None``.

    Args:
        error: What was raised as we waited for the client.
        handled: What was being handled as that began.
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
    """Return an exception and those before it, each once, also of a ring."""
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        yield error
        error = before(error)


def _handlers() -> Iterator[CodeType]:
    """Return the code of the app's signal handlers."""
    for number in signal.valid_signals():
        handler: object = signal.getsignal(number)
        while isinstance(handler, partial):
            handler = handler.func
        if not callable(handler):  # SIG_DFL, SIG_IGN, none, or not installed from Python
            continue
        for function in (handler, type(handler).__call__):
            code = getattr(getattr(function, "__func__", function), "__code__", None)
            if code is not None:
                yield code


def _is_injected(error: BaseException) -> bool:
    kind = type(error)
    if any(f"{one.__module__}.{one.__qualname__}" in INJECTED for one in kind.__mro__):
        return True
    # A class that nobody here raises, and nothing of the app's was called that might have.
    return not _is_known(kind.__module__) and all(
        _is_known(name) for name, _ in _frames(error.__traceback__)
    )


def _is_known(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _KNOWN


def _frames(trace: TracebackType | None) -> Iterator[tuple[object, CodeType]]:
    """Return the module and the code of each frame that a traceback names."""
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        yield frame.f_globals.get("__name__"), frame.f_code
