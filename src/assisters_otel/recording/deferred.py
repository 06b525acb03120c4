"""Steps that cannot run where they come up: inside the garbage collector.

The collector runs anywhere, also while the SDK holds a lock that a metric needs. Recording there
has been seen to wait for ever. So such a step is only kept, and run soon: by a daemon thread, which
lives as long as there are bodies whose streams may be collected; with the next attempt; at a flush;
and when metrics are asked for. `put` may be called inside anything: it takes no lock.
"""

from __future__ import annotations

import gc
import math
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S: Final = 1.0
"""For how long another thread that runs steps is waited for, in seconds, if no other time is given.
A step ends a span, and a processor of the app's may take long to export that."""

IDLE_S: Final = 1.0
"""For how long the thread waits for another body, in seconds. Then it ends: an app that forks later
is warned of threads by Python 3.12 and newer."""


class Deferred:
    """The steps, and the thread that runs them."""

    def __init__(self, is_needed: Callable[[], object]) -> None:
        """Start without a step and without a thread.

        Args:
            is_needed: Returns what is true as long as there are bodies on their way.
        """
        self._is_needed = is_needed
        self.forked()

    def forked(self) -> None:
        """Forget the steps in a forked child: the parent runs them. Its thread is not there."""
        self._steps: deque[Callable[[], object]] = deque()
        # Its `put` is reentrant, which is promised of no other queue, event or lock.
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._lock = threading.RLock()  # a signal handler may flush meanwhile
        self._thread: threading.Thread | None = None
        self._collecting = 0
        self._is_slow = False  # a thread that runs steps was waited for in vain

    def watch_collector(self) -> None:
        """Know from now on whether the garbage collector runs."""
        if self._collector not in gc.callbacks:
            gc.callbacks.append(self._collector)

    def stop(self) -> None:
        """Run what is left, and end the thread."""
        if self._collector in gc.callbacks:
            gc.callbacks.remove(self._collector)
        self._collecting = 0
        self.run_all()
        thread, self._thread = self._thread, None
        if thread is not None:
            wake, self._wake = self._wake, SimpleQueue()
            wake.put(False)

    def is_collecting(self) -> bool:
        """Return True if this runs inside the garbage collector."""
        return self._collecting == threading.get_ident()

    def put(self, step: Callable[[], object]) -> None:
        """Keep a step to be run soon. It may hold nothing that is being collected."""
        self._steps.append(step)
        if self._thread is not None:
            self._wake.put(True)

    @fail_safe
    def run_outside_collector(self, step: Callable[[], object]) -> None:
        """Run a step now, or soon if this runs inside the garbage collector."""
        if self.is_collecting():
            self.put(step)
        else:
            step()

    @property
    def has_steps(self) -> bool:
        """True if there is something to run."""
        return bool(self._steps)

    @fail_safe
    def run_all(self, wait_s: float | None = None) -> None:
        """Run every step that is kept.

        Args:
            wait_s: If another thread is just running some, wait for it so long, in seconds, and
                leave them to it then. None for `WAIT_S`, once for each time that it takes longer.
        """
        if wait_s is None:
            wait_s = 0 if self._is_slow else WAIT_S
        if not self._lock.acquire(timeout=-1 if wait_s > threading.TIMEOUT_MAX else wait_s):
            self._is_slow = self._is_slow or wait_s > 0
            return
        self._is_slow = False
        try:
            while True:
                try:
                    step = self._steps.popleft()
                except IndexError:
                    return
                _run(step)
        finally:
            self._lock.release()

    @fail_safe
    def expect(self) -> None:
        """Have the thread run: a body is on its way, whose stream may be collected."""
        # No lock is taken: the thread may be at an export, for which the app would wait.
        if self._thread is None:
            thread = threading.Thread(
                target=self._run, args=(self._wake,), name="assisters-otel-deferred", daemon=True
            )
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:  # none can be started now, as at the interpreter's exit
                self._thread = None

    def _run(self, wake: SimpleQueue[bool]) -> None:
        is_awaited = True
        while is_awaited:
            try:
                is_stopped = not wake.get(timeout=IDLE_S)
            except Empty:
                is_awaited, is_stopped = bool(self._is_needed()), False
            self.run_all(math.inf)
            if is_stopped:
                return
        self._thread = None
        if self._steps or self._is_needed():  # of a body that has come meanwhile
            self.expect()

    def _collector(self, phase: str, _info: dict[str, int]) -> None:
        self._collecting = threading.get_ident() if phase == "start" else 0


@fail_safe
def _run(step: Callable[[], object]) -> None:
    step()
