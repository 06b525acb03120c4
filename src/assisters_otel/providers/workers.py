"""Daemon threads that do one thing after another, and a limit of time for what they do."""

from __future__ import annotations

import os
import queue
import threading
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from assisters_otel import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_Job = tuple["Future[object]", "Callable[[], object]"]


class DaemonWorker:
    """A daemon thread that does one thing after another.

    It is started beforehand: an interpreter that exits may start no thread any more
    (Python 3.12). Nobody waits for it at exit, since it is a daemon.
    """

    def __init__(self) -> None:
        # Looked up now: gevent may have put its own in place of it and of the threads, and a
        # greenlet that waits in the other one holds up all of them.
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(
            target=_work, args=(self._jobs,), name="assisters-otel-export", daemon=True
        ).start()

    def do(self, act: Callable[[], object]) -> Future[object]:
        """Do *act* when all before it is done; its outcome is in the future."""
        future: Future[object] = Future()
        self._jobs.put((future, act))
        return future

    def rest(self) -> None:
        """End the thread when all is done."""
        self._jobs.put(None)


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        future, act = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(act())
            except BaseException as error:  # noqa: BLE001 - handed over to who waits, not swallowed
                future.set_exception(error)


LONGEST_S: Final = 1_000_000.0
"""What stands for no limit, in seconds. The clocks beneath take no infinity, and some no more than
49 days. Source: ``threading.TIMEOUT_MAX`` on Windows."""


def limited(timeout_s: float) -> float:
    """Return a time to wait that every clock takes; *timeout_s* may be infinite."""
    return float(min(timeout_s, LONGEST_S))


class Hands:
    """Threads that call what is not ours, side by side and within a limit of time.

    They are started beforehand, as each `DaemonWorker` is. A forked process starts others when it
    first needs them.

    Args:
        number: How many calls there will be at most.
    """

    def __init__(self, number: int) -> None:
        self._owner = os.getpid()
        self._hands: list[DaemonWorker] = []
        self._start(number)

    def begin(self, calls: Sequence[Callable[[], object]]) -> list[Future[object]]:
        """Begin *calls*, for example the ``force_flush`` of providers that are not ours.

        Returns:
            The outcomes to come. Where no thread can be started any more, they have failed.
        """
        if self._owner != os.getpid():
            self._owner, self._hands = os.getpid(), []
        self._start(len(calls))
        begun = [hand.do(call) for hand, call in zip(self._hands, calls, strict=False)]
        return begun + [_failed() for _ in calls[len(begun) :]]

    def _start(self, number: int) -> None:
        with suppress(RuntimeError):  # an interpreter that exits starts none
            while len(self._hands) < number:
                self._hands.append(DaemonWorker())

    def rest(self) -> None:
        """End the threads when all is done; what is begun after that has others."""
        for hand in self._hands if self._owner == os.getpid() else ():
            hand.rest()
        self._hands = []


def _failed() -> Future[object]:
    future: Future[object] = Future()
    future.set_result(False)
    return future


def run_all(futures: Sequence[Future[object]], timeout_s: float) -> bool:
    """Wait for *futures* together.

    Args:
        futures: What has begun.
        timeout_s: After so many seconds the caller goes on. What has not begun by then is not
            done any more, and the rest goes on in its daemon.

    Returns:
        Whether all are done, and none raised or returned False.
    """
    _, pending = wait(futures, timeout_s)
    for future in pending:
        future.cancel()  # one that has not begun would only be in the way of the next
    return not pending and all_succeeded(futures)


def all_succeeded(futures: Iterable[Future[object]]) -> bool:
    """Say whether none raised or gave False; log what was raised."""
    outcomes = []
    for future in futures:
        error = future.exception()
        if error is not None:
            logger.warning(
                "telemetry could not be exported (%s)",
                type(error).__name__,
            )
        outcomes.append(error is None and future.result() is not False)
    return all(outcomes)
