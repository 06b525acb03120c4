"""Celery: a task is a unit of work, and a child of the prefork pool ends by ``os._exit``.

The main process, which runs the tasks of the solo and thread pools, ends as Python's do. Nothing is
sent where Celery gives no moment: at a cold shutdown and at a hard time limit it kills the child.
Source: ``celery.signals``, and ``billiard.pool.Worker``, which calls the one for a child's end at a
warm shutdown, after ``--max-tasks-per-child`` and after SIGTERM, 5.4 to 5.7.
"""

from __future__ import annotations

from typing import Final

from assisters_otel.attempts.control_flow import units
from assisters_otel.process import here
from assisters_otel.runtimes.receivers import Receiver


def _task_started(task_id: object = None, **_told: object) -> None:
    """Start the unit of a task. One that is retried has the id that it had."""
    units.start(f"celery {task_id}")


def _task_ended(task_id: object = None, **_told: object) -> None:
    units.end(f"celery {task_id}")


def _child_ends(**_told: object) -> None:
    here.flush_at_end()


_SIGNALS: Final = "celery.signals"
RECEIVERS: Final = (
    Receiver(_SIGNALS, "task_prerun", _task_started),
    Receiver(_SIGNALS, "task_postrun", _task_ended),
    Receiver(_SIGNALS, "worker_process_shutdown", _child_ends),
)
"""What to connect."""
