"""What there is once a process: the handle that is switched on; its exit, its forks."""

from __future__ import annotations

import atexit
import inspect
import os
import sys
import threading
from typing import TYPE_CHECKING, Final

from assisters_otel import logger
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from assisters_otel.telemetry import Telemetry

_PROGRAMS: Final = frozenset({"subprocess", "gevent.subprocess"})
"""The modules that run programs."""


class Process:
    """What there is once a process.

    Attributes:
        lock: Held while anything is switched on or off.
        current: The handle that is switched on, or None.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.current: Telemetry | None = None
        self._ended: WeakIdentityDict[bool] = WeakIdentityDict()
        self._is_watching = False
        self._has_warned = False
        self._ends_in: int | None = None
        atexit.register(self._exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._forking, after_in_child=self._forked)

    def end(self, provider: object) -> None:
        """Remember that we have shut a provider down: it is never used again."""
        self._ended.put(provider, True)

    def has_ended(self, provider: object) -> bool:
        """Return True if we have shut a provider down."""
        return self._ended.get(provider) is not None

    def start(self, telemetry: Telemetry) -> None:
        """Take *telemetry* for the one that is switched on, and see to its end."""
        self.current = telemetry
        self._watch_multiprocessing()
        multiprocessing = sys.modules.get("multiprocessing.process")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            self._end_with_multiprocessing()

    def _watch_multiprocessing(self) -> None:
        """See to it that a child of multiprocessing ends well.

        Forked, by its parent or by the fork server, it leaves by ``os._exit``: no `atexit`,
        but finalizers of its own. It clears those that are there when it begins, and then
        runs what is registered here.
        """
        util = sys.modules.get("multiprocessing.util")
        if util is not None and not self._is_watching:
            self._is_watching = True
            util.register_after_fork(self, Process._end_with_multiprocessing)

    def _end_with_multiprocessing(self) -> None:
        util = sys.modules.get("multiprocessing.util")
        if util is not None and self._ends_in != os.getpid():
            self._ends_in = os.getpid()
            util.Finalize(None, self._exit, exitpriority=0)

    def _exit(self) -> None:
        if self.current is not None:
            self.current.shutdown()

    def _forking(self) -> None:
        monkey = sys.modules.get("gevent.monkey")
        if self._has_warned or self.current is None or monkey is None or _runs_a_program():
            return
        if monkey.is_module_patched("threading"):
            self._has_warned = True
            logger.warning(
                "a fork under gevent: OpenTelemetry's SDK starts its threads anew in the child, "
                "and to start a greenlet lets others run there as well, which then send what "
                "the parent sends. Fork workers before greenlets send",
            )

    def _forked(self) -> None:
        self.lock = threading.RLock()
        self._watch_multiprocessing()
        if self.current is not None:
            self.current.forked()


def _runs_a_program() -> bool:
    """Return True if a fork is under way for `subprocess`, whose child is another program at once.

    The `openai` SDK and trio ask ``uname`` for the processor so.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") in _PROGRAMS:
            return True
        frame = frame.f_back
    return False


here: Final = Process()
