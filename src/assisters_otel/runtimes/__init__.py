"""How the processes of a runtime end, and what it shows as a unit of work: one file a runtime.

A runtime is a server or a worker that runs the app: uvicorn, Celery, RQ. What is hooked is data: a
method, or a signal that the runtime offers. It is hooked when the runtime is imported, which is
never by this library, and comes out again at `shutdown`. gunicorn and hypercorn need no hook: their
processes end as Python's do, or run a server of uvicorn's. Neither does multiprocessing, whose
children `process` sees to.

At the end of a process a hook sends what is queued (`process.Process.flush_at_end`). No hook
installs a signal handler, replaces ``os._exit``, or exports while a request is served.
"""

from __future__ import annotations

from assisters_otel.clients.patching import Patches
from assisters_otel.runtimes import celery, rq, uvicorn
from assisters_otel.runtimes.receivers import Receivers


class Hooks:
    """What is hooked into the runtimes, as long as something is switched on."""

    def __init__(self) -> None:
        """Remember what to hook."""
        targets = (*uvicorn.TARGETS, *rq.TARGETS)
        self._methods = Patches(targets, lambda _: None)
        self._signals = Receivers(celery.RECEIVERS)

    def put_in(self) -> None:
        """Hook what is imported, and the rest when it is. Imports nothing."""
        self._methods.put_in()
        self._signals.put_in()

    def take_out(self) -> None:
        """Take every hook out again."""
        self._methods.take_out()
        self._signals.take_out()
