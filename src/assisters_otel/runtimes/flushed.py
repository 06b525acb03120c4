"""`flushed`: a decorator for functions after which a platform may freeze or end the process."""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from assisters_otel.config import WrongArgument
from assisters_otel.fail_safe import fail_safe
from assisters_otel.runtimes.work_units import WorkUnit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import CoroutineType

P = ParamSpec("P")
T = TypeVar("T")

_numbers: Final = itertools.count(1)


def flushed(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that each call ends with a flush of the telemetry.

    Use it where a platform may freeze or end the process after the call, and the library has no
    hook for the platform. Such are Google Cloud Functions, Azure Functions, and Cloud Run with CPU
    during requests only. Write it below the platform's own decorators. `init` may be called before
    or after.

    A call waits 2 seconds for the flush at most. If an argument is AWS Lambda's context, it waits
    never longer than half a second less than what is left of the invocation. After two flushes in a
    row that ran out of time, the next ten calls do not wait. A call inside another decorated
    function, or in an invocation of AWS Lambda that the library flushes itself, is not flushed for
    itself. A call that is cancelled, or that ends by `SystemExit` or `KeyboardInterrupt`, is not
    flushed.

    Each call is a flow of control of its own: an attempt in it is no resend of one in an earlier
    call.

    Args:
        function: A function or a coroutine function. Its result and its exceptions are unchanged.
            If a function returns a coroutine, the call ends with that.

    Returns:
        A function, or a coroutine function, with the same signature.

    Raises:
        ValueError: *function* is none, or a generator function, which runs after its call has
            ended.
    """
    if not callable(function):  # a classmethod, or the argument of a decorator that takes one
        raise WrongArgument(
            f"flushed decorates a function, not {type(function).__name__}. Write "
            "@assisters_otel.flushed without brackets, just above def"
        )
    call: Any = getattr(function, "__call__", None)  # noqa: B004 - an instance may have a coroutine function
    if any(map(inspect.isgeneratorfunction, (function, call))) or any(
        map(inspect.isasyncgenfunction, (function, call))
    ):
        raise WrongArgument(
            "flushed is for functions and coroutine functions; a generator function runs after its "
            "call has ended. Decorate the function that iterates over it"
        )
    awaited = cast("Callable[P, Awaitable[Any]]", function)

    @functools.wraps(function)
    async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
        async with _unit(args, kwargs) or _unit_of_its_own():
            return await awaited(*args, **kwargs)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        unit = _unit(args, kwargs) or _unit_of_its_own()
        with unit:
            result = function(*args, **kwargs)
            # Another decorator may hide a coroutine function. Its work is still to be done.
            unit.is_flushed = not inspect.iscoroutine(result)
        if unit.is_flushed:
            return result
        later = _unit(args, kwargs) or _unit_of_its_own()
        return cast("T", _run_in(later, cast("CoroutineType[Any, Any, Any]", result)))

    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        return cast("Callable[P, T]", run_async)
    return run


def _run_in(
    unit: WorkUnit, coroutine: CoroutineType[Any, Any, Any]
) -> CoroutineType[Any, Any, Any]:
    """Return a coroutine that runs another one in a unit, and has its name."""

    async def run() -> Any:
        async with unit:
            return await coroutine

    running = cast("CoroutineType[Any, Any, Any]", run())
    running.__name__, running.__qualname__ = coroutine.__name__, coroutine.__qualname__
    return running


@fail_safe
def _unit(args: tuple[object, ...], kwargs: dict[str, object]) -> WorkUnit:
    """Return the unit of a call. A context of AWS Lambda names it and tells the time left."""
    for argument in (*args, *kwargs.values()):
        # Looked up in the class: an object of the app's may answer to any name.
        if hasattr(type(argument), "get_remaining_time_in_millis"):
            name = f"lambda {getattr(argument, 'aws_request_id', None)}"
            return WorkUnit(name, functools.partial(_left_s, argument))
    return _unit_of_its_own()


def _left_s(context: Any) -> float:
    return float(context.get_remaining_time_in_millis()) / 1000


def _unit_of_its_own() -> WorkUnit:
    return WorkUnit(f"flushed {next(_numbers)}")
