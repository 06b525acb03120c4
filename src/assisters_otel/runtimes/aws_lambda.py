"""AWS Lambda: an invocation is a unit of work, and the process is frozen after it.

The runtime's loop gets an invocation, calls `handle_event_request` and asks for the next one. When
it asks, Lambda freezes the process. `handle_event_request` calls the app's handler and sends its
result to the caller. So the flush after it delays no caller, and ends before the freeze.

The handler itself cannot be wrapped: if `init` is at the top of the handler's module, the handler
does not exist yet. The loop looks `handle_event_request` up in its module for each invocation. So
it is enough to wrap it there, whatever the runtime is doing meanwhile.

OpenTelemetry's instrumentation of Lambda wraps the handler, and flushes the global providers before
the handler returns. Where these have all that the library records, there is no second flush.

Source: ``awslambdaric.bootstrap`` 2.0 to 4.2;
``opentelemetry.instrumentation.aws_lambda`` 0.65b0 and 0.66b1.
"""

from __future__ import annotations

import functools
import inspect
import time
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.clients.patching import Target
from assisters_otel.fail_safe import fail_safe
from assisters_otel.process import PROCESS
from assisters_otel.runtimes.work_units import WorkUnit, no_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_INSTRUMENTATION: Final = "opentelemetry.instrumentation.aws_lambda"

_MAX_LAYERS: Final = 20
"""The layers around a handler that are looked at. An object that answers to any name has layers
without an end (test_a_handler_that_answers_to_any_name_is_called)."""


def _as_unit(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper of `handle_event_request` that flushes after it."""

    def handle_event_request(*args: Any, **kwargs: Any) -> Any:
        unit = _unit(original, args, kwargs)
        if unit is None:  # a fault of the library's, which is logged
            return original(*args, **kwargs)
        with unit:
            return original(*args, **kwargs)

    return handle_event_request


@fail_safe
def _unit(
    original: Callable[..., Any], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> WorkUnit:
    """Return the unit of an invocation. Its arguments have the same names in all versions."""
    given = inspect.signature(original).bind(*args, **kwargs).arguments
    deadline_ms = given.get("epoch_deadline_time_in_ms")
    return WorkUnit(
        f"lambda {given.get('invoke_id')}",
        no_limit if deadline_ms is None else functools.partial(_left_s, deadline_ms),
        is_flushed=not _is_flushed_by_opentelemetry(given.get("request_handler")),
    )


def _left_s(deadline_ms: float) -> float:
    """Return what is left until a moment of the wall clock, in seconds."""
    return float(deadline_ms) / 1000 - time.time()


def _is_flushed_by_opentelemetry(handler: object) -> bool:
    """Return True if OpenTelemetry's instrumentation flushes all that the library records."""
    for _ in range(_MAX_LAYERS):
        wrapper = getattr(handler, "_self_wrapper", None)  # wrapt's; its name is not public
        if getattr(wrapper, "__module__", None) == _INSTRUMENTATION:
            on = PROCESS.instrumentation
            return on is not None and on.records_in_global_providers()
        handler = getattr(handler, "__wrapped__", None)
        if handler is None:
            break
    return False


TARGETS: Final = (Target("awslambdaric.bootstrap", "handle_event_request", _as_unit),)
"""The functions to wrap."""
