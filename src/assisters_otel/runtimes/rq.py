"""RQ: a job is a unit of work, and a work horse ends by ``os._exit`` after its job.

A work horse may import the app, and so this library, only while it performs its job. Then its
`perform_job` is already running and cannot be wrapped. So the flush is attached to the methods that
record the job's result, which the horse calls last. Source: ``rq.worker`` 1.16 to 3.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assisters_otel.attempts.control_flow import units
from assisters_otel.clients.patching import Target, as_function
from assisters_otel.process import PROCESS

if TYPE_CHECKING:
    from collections.abc import Callable


def _as_unit(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper of `perform_job` that marks the whole job as one unit of work."""
    perform = as_function(original)

    def perform_job(worker: Any, /, job: Any, *args: Any, **kwargs: Any) -> Any:
        name = f"rq {getattr(job, 'id', None)}"
        units.start(name)
        try:
            return perform(worker, job, *args, **kwargs)
        finally:
            units.end(name)

    return perform_job


def _flush_after(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper that flushes in a work horse. A worker that performs jobs itself goes on."""
    handle = as_function(original)

    def handled(worker: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return handle(worker, *args, **kwargs)
        finally:
            if getattr(worker, "is_horse", False):
                PROCESS.flush_at_end()

    return handled


_LAST_CALLED: Final = ("handle_job_success", "handle_job_failure", "handle_job_retry")
TARGETS: Final = (
    Target("rq", "Worker.perform_job", _as_unit, wherever_defined=True),
    *(Target("rq", f"Worker.{name}", _flush_after, wherever_defined=True) for name in _LAST_CALLED),
)
"""The methods to wrap."""
