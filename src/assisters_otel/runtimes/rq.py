"""RQ: a job is a unit of work, and a work horse ends by ``os._exit`` after its job.

A horse may import the app, and so this library, only when it performs its job. Then it is too late
to wrap `perform_job`, and the last that it calls is what takes note of how the job went.
Source: ``rq.worker`` 1.16 to 3.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assisters_otel.attempts.control_flow import units
from assisters_otel.clients.patching import Target, unbound
from assisters_otel.process import here

if TYPE_CHECKING:
    from collections.abc import Callable


def _in_unit(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what performs a job: all of it is one unit of work."""
    perform = unbound(original)

    def perform_job(worker: Any, job: Any, *args: Any, **kwargs: Any) -> Any:
        name = f"rq {getattr(job, 'id', None)}"
        units.start(name)
        try:
            return perform(worker, job, *args, **kwargs)
        finally:
            units.end(name)

    return perform_job


def _then_flush(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what a work horse calls last; a worker that performs jobs itself goes on."""
    handle = unbound(original)

    def handled(worker: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return handle(worker, *args, **kwargs)
        finally:
            if getattr(worker, "is_horse", False):
                here.flush_at_end()

    return handled


_LAST: Final = ("handle_job_success", "handle_job_failure", "handle_job_retry")
TARGETS: Final = (
    Target("rq", "Worker.perform_job", _in_unit, wherever_defined=True),
    *(Target("rq", f"Worker.{name}", _then_flush, wherever_defined=True) for name in _LAST),
)
"""What to wrap."""
