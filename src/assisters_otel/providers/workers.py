"""Daemon threads that run one call after another, and a limit of time for what they run."""

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
    """A daemon thread that runs one call after another.

    CPython 3.12 refuses new threads at exit (test_nothing_is_lost_at_exit). So the thread is
    started with the object. It is a daemon, so that the exit does not wait for it.
    """

    def __init__(self) -> None:
        # Looked up here: gevent may have replaced the queue and the threads since the import. A
        # greenlet that waits in the original queue blocks every other greenlet.
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(
            target=_work, args=(self._jobs,), name="assisters-otel-export", daemon=True
        ).start()

    def submit(self, call: Callable[[], object]) -> Future[object]:
        """Run *call* after all calls before it; return the future of its outcome."""
        future: Future[object] = Future()
        self._jobs.put((future, call))
        return future

    def stop(self) -> None:
        """End the thread after the calls that are submitted."""
        self._jobs.put(None)


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        future, call = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - the future passes it on
                future.set_exception(error)


class DaemonWorkers:
    """One `DaemonWorker` for each call, so that the calls run side by side.

    A forked process starts workers of its own with its first calls.

    Args:
        number: How many calls are expected. Workers for these are started with the object.
    """

    def __init__(self, number: int) -> None:
        self._pid = os.getpid()
        self._workers: list[DaemonWorker] = []
        self._start(number)

    def submit(self, calls: Sequence[Callable[[], object]]) -> list[Future[object]]:
        """Start *calls*, for example the ``force_flush`` of the app's providers.

        Returns:
            A future for each. One for which no thread can be started has the outcome False.
        """
        if self._pid != os.getpid():
            self._pid, self._workers = os.getpid(), []
        self._start(len(calls))
        started = [one.submit(call) for one, call in zip(self._workers, calls, strict=False)]
        return started + [_failed() for _ in calls[len(started) :]]

    def stop(self) -> None:
        """End the threads after the calls that are submitted; later calls start new ones."""
        for one in self._workers if self._pid == os.getpid() else ():
            one.stop()
        self._workers = []

    def _start(self, number: int) -> None:
        with suppress(RuntimeError):  # at exit no thread can be started
            while len(self._workers) < number:
                self._workers.append(DaemonWorker())


def _failed() -> Future[object]:
    future: Future[object] = Future()
    future.set_result(False)
    return future


# -- waiting for them -------------------------------------------------------------------------

LONGEST_S: Final = 1_000_000.0
"""Stands for no limit, in seconds. No clock takes infinity, and Windows' takes 49 days at most.
Source: ``threading.TIMEOUT_MAX`` there."""


def limited(timeout_s: float) -> float:
    """Return *timeout_s*, which may be infinite, as a time that every clock takes."""
    return float(min(timeout_s, LONGEST_S))


def run_all(futures: Sequence[Future[object]], timeout_s: float) -> bool:
    """Wait for *futures* together.

    Args:
        futures: Of calls that are submitted.
        timeout_s: How long to wait, in seconds. A call that has not started by then is cancelled.
            One that has started goes on in its daemon thread.

    Returns:
        True if all calls ended in time, and none raised or returned False.
    """
    _, pending = wait(futures, timeout_s)
    for future in pending:
        future.cancel()  # a call that has not started would only delay the worker's next
    return not pending and all_succeeded(futures)


def all_succeeded(futures: Iterable[Future[object]]) -> bool:
    """Return True if no call raised or returned False; log each exception's class."""
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
