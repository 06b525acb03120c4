"""Hooks into the runtimes: how their processes end, and their units of work. One file a runtime.

A runtime is a server or a worker that runs the app: uvicorn, Celery, RQ. Its file lists its hooks
as data: a method to wrap, or a signal to connect to. They are installed when the app imports the
runtime and removed at `shutdown`. The library itself imports no runtime. A runtime's file is
imported with it: an app that has none starts faster (tests/bench/import_cost.py).

A hook does one of these:

* At the end of a process it flushes the exporters (`process.ProcessState.flush_at_end`). These
  runtimes end a process in ways that run no `atexit` function, so what is queued would be lost.
* It marks the start and the end of a unit of work, such as a task of Celery. An attempt in one unit
  is no resend of an attempt in another (`control_flow.Units`).
* It flushes at the end of a unit of work, where the process is frozen after it (`work_units`).
* It tells Python of a fork that the runtime has made in C (`uwsgi`).

No hook installs a signal handler, replaces ``os._exit``, or exports while a request is served. AWS
Lambda's invocation is flushed after its answer. No hook is needed for gunicorn and hypercorn: their
processes end as Python's do, or run a server of uvicorn. Dramatiq's workers are `children` of
multiprocessing.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

from assisters_otel.clients.patching import Patches
from assisters_otel.fail_safe import fail_safe
from assisters_otel.runtimes.children import CHILDREN
from assisters_otel.runtimes.receivers import Receivers
from assisters_otel.runtimes.uwsgi import UwsgiHooks

if TYPE_CHECKING:
    from assisters_otel.clients.patching import Target
    from assisters_otel.runtimes.receivers import Receiver


def _targets(file: str) -> tuple[Target, ...]:
    targets: tuple[Target, ...] = import_module(f"{__name__}.{file}").TARGETS
    return targets


def _receivers(file: str) -> tuple[Receiver, ...]:
    receivers: tuple[Receiver, ...] = import_module(f"{__name__}.{file}").RECEIVERS
    return receivers


TARGETS: Final = {
    "uvicorn": partial(_targets, "uvicorn"),
    "rq": partial(_targets, "rq"),
    "dramatiq.worker": partial(_targets, "dramatiq"),
    "awslambdaric.bootstrap": partial(_targets, "aws_lambda"),
    "billiard.pool": partial(_targets, "celery"),
}
"""Functions that return the methods to wrap, by the modules that have them."""

RECEIVERS: Final = {"celery.signals": partial(_receivers, "celery")}
"""Functions that return the receivers to connect, by the modules that have their signals."""


class RuntimeHooks:
    """All hooks into the runtimes, installed while an instrumentation is on."""

    def __init__(self) -> None:
        """Create the hooks without installing them."""
        self._methods = Patches((), TARGETS)
        self._signals = Receivers(RECEIVERS)
        self._uwsgi = UwsgiHooks()

    def apply(self) -> None:
        """Hook into each runtime that is imported, now or later. Imports none."""
        self._methods.apply()
        self._signals.apply()
        self._uwsgi.apply()
        CHILDREN.apply()

    @fail_safe
    def undo(self) -> None:
        """Remove all hooks."""
        self._methods.undo()
        self._signals.undo()
        self._uwsgi.undo()
        CHILDREN.undo()
