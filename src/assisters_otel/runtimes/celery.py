"""Celery: a task is a unit of work, and a child of the prefork pool ends by ``os._exit``.

So does a child of a pool of billiard's that a task makes itself: Celery's own children may have no
children by multiprocessing. A process of billiard's ends by the finalizer of `children`.

The main process runs the tasks of the solo and thread pools. It ends as Python's processes do. At a
cold shutdown and at a hard time limit Celery kills the child, so what is queued there is lost.

Source: ``celery.signals``, 5.4 to 5.7. ``billiard.pool.Worker`` sends the signal for a child's end
at a warm shutdown, after ``--max-tasks-per-child`` and after SIGTERM. billiard 4.2 and 4.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assisters_otel.attempts.control_flow import units
from assisters_otel.clients.patching import Target, as_function
from assisters_otel.process import PROCESS
from assisters_otel.runtimes.receivers import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable


def _task_started(task_id: object = None, **_arguments: object) -> None:
    """Start the unit of a task. A retried task has the same id, so it is the same unit."""
    units.start(f"celery {task_id}")


def _task_ended(task_id: object = None, **_arguments: object) -> None:
    units.end(f"celery {task_id}")


def _flush_child(**_arguments: object) -> None:
    PROCESS.flush_at_end()


RECEIVERS: Final = (
    Receiver("task_prerun", _task_started),
    Receiver("task_postrun", _task_ended),
    Receiver("worker_process_shutdown", _flush_child),
)
"""The receivers to connect to Celery's signals."""


def _flush_before(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper of `_do_exit`. Celery's pools have an `on_exit`, which sends the signal."""
    leave = as_function(original)

    def _do_exit(worker: Any, /, *args: Any, **kwargs: Any) -> Any:
        if getattr(worker, "on_exit", None) is None:
            PROCESS.flush_at_end()
        return leave(worker, *args, **kwargs)

    return _do_exit


TARGETS: Final = (Target("billiard.pool", "Worker._do_exit", _flush_before),)
"""The methods to wrap."""
