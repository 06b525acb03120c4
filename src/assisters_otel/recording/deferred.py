"""Runs steps that come up inside the garbage collector, outside of it.

The garbage collector may run at any allocation, also while the SDK holds a lock that a metric
needs. A stream's finalizer that records a metric there has been seen to wait for ever. So the step
is put into a deque, which takes no lock, and is run at the first of these:

* by a daemon thread, which lives as long as open bodies exist whose streams may be collected;
* before the next attempt;
* at a flush or a shutdown;
* when a reader collects the metrics.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from assisters_otel.fail_safe import fail_safe
from assisters_otel.recording.collector import CollectorWatch

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S: Final = 1.0
"""For how long another thread that runs steps is waited for, in seconds, if no other time is given.
A step ends a span, and a processor of the app's may take long to export that."""

IDLE_S: Final = 1.0
"""The seconds for which the thread waits for another step. Without an open body it ends then:
Python 3.12 and newer warn an app that forks while threads run."""


class Deferred:
    """The steps, and the thread that runs them.

    Attributes:
        steps: The steps that wait to be run.
        running: Is empty unless the garbage collector runs, in any thread. Then `is_collecting`
            need not be called (``200, alone``).
    """

    def __init__(self, is_needed: Callable[[], object]) -> None:
        """Start without a step and without a thread.

        Args:
            is_needed: A function that returns a true value as long as bodies are open. The thread
                calls it at least once in `IDLE_S`.
        """
        self._is_needed = is_needed
        self._collector = CollectorWatch()
        self.running = self._collector.running
        self.forked()

    def forked(self) -> None:
        """Forget the steps and the thread in a forked child: both are the parent's."""
        self.steps: deque[Callable[[], object]] = deque()
        # `SimpleQueue.put` is reentrant. Python promises that of no other queue, event or lock.
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._lock = threading.RLock()  # a signal handler may flush meanwhile
        self._thread: threading.Thread | None = None
        self.running.clear()
        self._is_slow = False  # a thread that runs steps was waited for in vain

    def watch_collector(self) -> None:
        """Observe from now on when the garbage collector runs."""
        self._collector.start()

    def stop(self) -> None:
        """Run the steps that are left, and end the thread."""
        self._collector.stop()
        self.run_all()
        thread, self._thread = self._thread, None
        if thread is not None:
            wake, self._wake = self._wake, SimpleQueue()
            wake.put(False)

    def is_collecting(self) -> bool:
        """Return True if this runs inside the garbage collector."""
        return self._collector.is_here()

    def put(self, step: Callable[[], object]) -> None:
        """Keep a step to be run soon. It must not refer to an object that is being collected."""
        self.steps.append(step)
        if self._thread is not None:
            self._wake.put(True)

    @fail_safe
    def run_outside_collector(self, step: Callable[[], object]) -> None:
        """Run a step now, or soon if this runs inside the garbage collector."""
        if self.is_collecting():
            self.put(step)
        else:
            step()

    @fail_safe
    def run_all(self, wait_s: float | None = None) -> None:
        """Run every step that is kept.

        Args:
            wait_s: The seconds to wait while another thread runs steps; then it runs the rest. None
                for `WAIT_S`, once for each time that it takes longer.
        """
        if self.is_collecting():  # each step would be put off again, for ever
            return
        if wait_s is None:
            wait_s = 0 if self._is_slow else WAIT_S
        if not self._lock.acquire(timeout=-1 if wait_s > threading.TIMEOUT_MAX else wait_s):
            self._is_slow = self._is_slow or wait_s > 0
            return
        self._is_slow = False
        try:
            while True:
                try:
                    step = self.steps.popleft()
                except IndexError:
                    return
                _run(step)
        finally:
            self._lock.release()

    @fail_safe
    def expect(self) -> None:
        """Start the thread if it does not run: a body is open, whose stream may be collected."""
        # No lock is taken. The thread may hold it for an export, and the app would wait for that.
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
            else:
                self._is_needed()  # it also looks for what has waited too long
            self.run_all(math.inf)
            if is_stopped:
                return
        self._thread = None
        if self.steps or self._is_needed():  # a body was opened meanwhile
            self.expect()


@fail_safe
def _run(step: Callable[[], object]) -> None:
    step()
