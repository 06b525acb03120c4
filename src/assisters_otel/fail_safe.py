"""The one place that swallows exceptions: the library's own faults never reach the app.

`fail_safe` decorates each function of the library that runs on the app's way to its answer. Such a
function returns None in place of what it raises, and the fault is logged. A caller therefore treats
None as "there is no telemetry of this", and goes on with the app's own call.

Two kinds of exceptions pass. The first is one that is no `Exception`: a cancellation or an
interrupt. The second is a *foreign exception* (`foreign_exceptions`). It was raised while the
library's code ran, but by a signal handler or a runtime, for example as a time limit.
"""

from __future__ import annotations

import functools
import inspect
import logging
import traceback
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar, cast

from assisters_otel import foreign_exceptions, logger
from assisters_otel.api import redaction
from assisters_otel.api.limits import MAX_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WARNED: Final = 20
"""How many different faults are warned of, each once. Further ones are logged at DEBUG: a fault
whose text is never the same would fill the app's log."""

P = ParamSpec("P")
T = TypeVar("T")


class OwnErrors:
    """The faults of the library in this process.

    Attributes:
        strict: True if a fault is raised all the same, which `init` offers for tests.
        last_failure: The last fault since `start`, as one line, or None.
    """

    def __init__(self) -> None:
        """Start without a fault."""
        self.strict = False
        self.last_failure: str | None = None
        self._warned: set[str] = set()

    def start(self, *, strict: bool) -> None:
        """Forget all faults: an instrumentation starts.

        Args:
            strict: Raise faults from now on.
        """
        self.strict = strict
        self.last_failure = None
        self._warned = set()

    def record(self, error: Exception) -> None:
        """Keep and log a fault. An equal one is logged again at DEBUG only.

        Raises:
            BaseException: The foreign exception that *error* is, or that it was raised for.
            Exception: *error*, if faults are raised.
        """
        foreign = foreign_exceptions.of(error)
        if foreign is not None:
            raise foreign
        if self.strict:
            raise error
        failure = redaction.clean(f"{type(error).__name__}: {error}", MAX_MESSAGE)
        is_new = failure not in self._warned and len(self._warned) < MAX_WARNED
        if is_new:
            self._warned.add(failure)
        self.last_failure = failure
        log = logger.warning if is_new else logger.debug
        log("trouble of our own, the app is not touched: %s", failure)
        if logger.is_enabled_for(logging.DEBUG):
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            logger.debug("where it came from:\n%s", redaction.redact(trace))


own_errors: Final = OwnErrors()
"""The faults of this process, in which the library is switched on once."""

decorated: Final[list[Callable[..., object]]] = []
"""Every function that `fail_safe` has decorated, in the order of the imports. A test makes each of
them raise (test_planted_faults)."""


def fail_safe(step: Callable[P, T]) -> Callable[P, T | None]:
    """Decorate a function so that its exceptions do not reach its caller.

    Args:
        step: The function. No coroutine function and no generator function: those raise where they
            are awaited or iterated over, which is outside.

    Returns:
        A function that returns what *step* returns, or None if *step* raises an `Exception`.

    Raises:
        TypeError: *step* is a coroutine function or a generator function.
    """
    return _decorate(step, ())


def fail_safe_but_for(
    *passing: type[Exception],
) -> Callable[[Callable[P, T]], Callable[P, T | None]]:
    """Return a decorator that does what `fail_safe` does, and lets some exceptions pass.

    Args:
        *passing: The exceptions that pass, such as one for a wrong argument of the user's.
    """
    return lambda step: _decorate(step, passing)


def _decorate(step: Callable[P, T], passing: tuple[type[Exception], ...]) -> Callable[P, T | None]:
    code: CodeType | None = getattr(step, "__code__", None)
    if code is not None and code.co_flags & _RUNS_LATER:
        raise TypeError(f"{step.__qualname__} raises where it is awaited or iterated over")

    made = None if passing else _with_few_arguments(step)
    safe = functools.wraps(step)(made or _with_any_arguments(step, passing))
    decorated.append(safe)
    return safe


def _with_any_arguments(
    step: Callable[P, T], passing: tuple[type[Exception], ...]
) -> Callable[P, T | None]:
    def safe(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return step(*args, **kwargs)
        except passing:
            raise
        except Exception as error:  # noqa: BLE001 - the one place that swallows
            own_errors.record(error)
            return None

    return safe


def _with_few_arguments(step: Callable[..., T]) -> Callable[..., T | None] | None:
    """Return a safe function with the very parameters of *step*, or None if there are others.

    A request goes through fifteen to thirty of these. To pass its arguments on in a tuple and a
    dictionary would cost as much as five steps of each (``200, alone``).
    """
    if not isinstance(step, FunctionType):
        return None
    code = step.__code__
    count, more = code.co_argcount, inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
    if not 0 < count <= _FEW or code.co_kwonlyargcount or code.co_flags & more:
        return None
    safe = _maker(count)(step, own_errors)
    names = (*code.co_varnames[:count], *safe.__code__.co_varnames[count:])
    safe.__code__ = safe.__code__.replace(
        co_varnames=names, co_posonlyargcount=code.co_posonlyargcount
    )
    safe.__defaults__ = step.__defaults__
    return safe


_RUNS_LATER: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
"""The flags of a function that does nothing before its result is awaited or iterated over."""

_FEW: Final = 5
"""The most parameters of a function that is not called with a tuple and a dictionary."""

_LINES_BEFORE: Final[int] = getattr(inspect.currentframe(), "f_lineno", 0)
_TEMPLATE: Final = """
def make(_safe_step, _safe_errors):
    def safe({names}):
        try:
            return _safe_step({names})
        except Exception as _safe_error:
            _safe_errors.record(_safe_error)
            return None
    return safe
"""
# No parameter of a step has one of these names: before Python 3.13 a debugger that looks at the
# variables of the function would give both the value of one
# (test_a_step_gets_its_arguments_while_a_debugger_looks_at_them).


@functools.cache
def _maker(count: int) -> Callable[[Callable[..., T], OwnErrors], FunctionType]:
    """Return what makes a safe function of that many parameters, as `NamedTuple` makes its own."""
    # With the module's name, by which the frames of the library are known (`foreign_exceptions`).
    scope: dict[str, object] = {"__name__": __name__}
    names = ", ".join(f"_{number}" for number in range(count))
    # A traceback shows the template's lines. What is executed is this module's own text.
    text = "\n" * _LINES_BEFORE + _TEMPLATE.format(names=names)
    exec(compile(text, __file__, "exec"), scope)  # noqa: S102
    return cast("Callable[[Callable[..., T], OwnErrors], FunctionType]", scope["make"])
