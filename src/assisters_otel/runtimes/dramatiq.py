"""Dramatiq: a message is a unit of work.

Its workers are children of multiprocessing, which end by the finalizer of `children`. So nothing is
hooked at their end. A retried message has the same id, so it is the same unit. An actor that is a
coroutine function runs in a task, to which Dramatiq's thread copies its context, and the unit too.

Source: ``dramatiq.worker`` 1.17 to 2.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assisters_otel.attempts.control_flow import units
from assisters_otel.clients.patching import Target, as_function

if TYPE_CHECKING:
    from collections.abc import Callable


def _as_unit(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper of `process_message` that marks the whole message as one unit of work."""
    process = as_function(original)

    def process_message(worker: Any, /, message: Any, *args: Any, **kwargs: Any) -> Any:
        name = f"dramatiq {getattr(message, 'message_id', None)}"
        units.start(name)
        try:
            return process(worker, message, *args, **kwargs)
        finally:
            units.end(name)

    return process_message


TARGETS: Final = (Target("dramatiq.worker", "_WorkerThread.process_message", _as_unit),)
"""The methods to wrap. The class has that name in all versions; in some it is a second name."""
