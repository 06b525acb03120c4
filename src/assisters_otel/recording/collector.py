"""Observes when the garbage collector runs, and in which thread.

CPython runs the handlers of signals that have arrived at the first bytecode after them. If that is
in one of the collector's callbacks, it drops what the handler raises: a job's time limit, an exit,
Ctrl-C. So the callbacks here are C functions, which run no bytecode
(test_what_a_signal_s_handler_raises_in_a_collection_is_met).
"""

from __future__ import annotations

import gc
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Running(set[str]):
    """Is empty unless the collector runs.

    The collector's phases are assigned, each with what the collector says of it in a dictionary.
    Its keys are the same each time: a start adds them, and a stop removes them.
    """

    start = property(None, set.update)
    stop = property(None, set.difference_update)


def _native_local() -> threading.local:
    """Return the locals of threads, also where gevent has replaced them by those of greenlets.

    The collector runs in a thread. And gevent's cannot be asked any more at the interpreter's exit.
    """
    gevent = sys.modules.get("gevent.monkey")
    kind: type[threading.local] = threading.local
    if gevent is not None:
        kind = gevent.get_original("threading", "local")
    return kind()


class CollectorWatch:
    """Observes the garbage collector.

    Attributes:
        running: Is empty unless the collector runs, in whichever thread.
    """

    def __init__(self) -> None:
        """Observe nothing yet."""
        self.running = Running()
        # What the collector has said of the last start: at all, and in each thread.
        self._last: dict[str, object] = {}
        self._here = _native_local()
        self._callbacks: tuple[Callable[[str, dict[str, int]], object], ...] = (
            self._last.__setitem__,
            partial(setattr, self._here),
            partial(setattr, self.running),
        )

    def start(self) -> None:
        """Observe from now on when the collector runs."""
        for callback in self._callbacks:
            if callback not in gc.callbacks:
                gc.callbacks.append(callback)

    def stop(self) -> None:
        """Observe no more."""
        for callback in self._callbacks:
            if callback in gc.callbacks:
                gc.callbacks.remove(callback)
        self.running.clear()

    def is_here(self) -> bool:
        """Return True if the collector runs, and in this thread."""
        return bool(self.running) and vars(self._here).get("start", self) is self._last.get("start")
