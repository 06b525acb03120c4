"""Daemon threads that do one thing after another, and a limit of time for what they do."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

from assisters_otel import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_Job = tuple["Future[object]", "Callable[[], object]"]


class Hand:
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
            except Exception as error:  # noqa: BLE001 - handed over to who waits, not swallowed
                future.set_exception(error)


def in_time(calls: Sequence[Callable[[], object]], timeout_s: float) -> bool:
    """Call each of *calls* in a thread of its own, and wait for them together.

    Args:
        calls: For example the ``force_flush`` of providers that are not ours.
        timeout_s: After so many seconds the caller goes on; they go on as daemons.

    Returns:
        Whether all are done, and none raised or returned False.
    """
    hands = [Hand() for _ in calls]
    futures = [hand.do(call) for hand, call in zip(hands, calls, strict=True)]
    for hand in hands:
        hand.rest()
    _, pending = wait(futures, timeout_s)
    return not pending and succeeded(futures)


def succeeded(futures: Iterable[Future[object]]) -> bool:
    """Say whether none raised or gave False; log what was raised."""
    outcomes = []
    for future in futures:
        error = future.exception()
        if error is not None:
            logger.warning("telemetry could not be exported (%s)", type(error).__name__)
        outcomes.append(error is None and future.result() is not False)
    return all(outcomes)
