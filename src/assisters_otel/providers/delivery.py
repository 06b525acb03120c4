"""Logs one warning when exports fail, in place of the exporters' own lines.

A `Receiver` is one server (or one exporter that names no server), and what has been logged about
it. A `DeliveryState` is one signal that is exported to it. Both signals usually go to one receiver:
if it does not answer, one warning names both.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from assisters_otel import logger
from assisters_otel.providers.exporter_logs import failure_in_log_record
from assisters_otel.providers.failures import NO_ANSWER, UNEXPLAINED, ExportFailure

if TYPE_CHECKING:
    import logging

REPEAT_WARNING_S: Final = 300.0
"""How long after a warning about one signal and receiver there is no second one, in seconds. A
receiver that fails every minute would fill the log otherwise."""


class Receiver:
    """One server that telemetry is exported to, and what has been logged about it.

    Attributes:
        place: ``http://localhost:4318``, without user, password, path and query.
        telemetry: The names of what is exported to it, ``spans``, ``metrics``, or both.
        lock: Guards the rest. A forked process puts a new one here. It is re-entrant: garbage
            collection may end a span inside, and a full queue is reported through here.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.telemetry: list[str] = []
        self.lock = threading.RLock()
        self._failing: dict[str, ExportFailure] = {}
        self._warned_of: set[str] = set()
        self._warned_at_s: dict[str, float] = {}

    def failed(self, telemetry: str, failure: ExportFailure, now_s: float) -> None:
        """Log a warning that *telemetry* is dropped, unless that has been logged.

        Args:
            telemetry: One of `telemetry`.
            failure: Why. If no server answered, the others of `telemetry` are dropped too.
            now_s: On a steady clock.
        """
        with self.lock:
            self._failing[telemetry] = failure
            dropped = [telemetry]
            if not failure.was_answered:
                dropped = [
                    one for one in self.telemetry if one == telemetry or one not in self._warned_of
                ]
            last_s = self._warned_at_s.get(telemetry)
            is_recent = last_s is not None and now_s - last_s < REPEAT_WARNING_S
            if telemetry in self._warned_of or is_recent:
                return
            self._warned_of.update(dropped)
            self._warned_at_s.update(dict.fromkeys(dropped, now_s))
        logger.warning(
            "telemetry does not get through to %s (%s): %s are dropped until it does; "
            "this is said once",
            self.place,
            failure.reason,
            " and ".join(dropped),
        )

    def succeeded(self, telemetry: str) -> None:
        """Log that exports succeed again, if a warning said that they do not."""
        if not self._failing:
            return
        with self.lock:
            # A server that answers one signal is there for the others: of their failures only
            # those stay that it answered with.
            self._failing = {
                other: failure
                for other, failure in self._failing.items()
                if other != telemetry and failure.was_answered
            }
            if self._failing or not self._warned_of:
                return
            self._warned_of.clear()
        logger.info("telemetry gets through to %s again", self.place)


class DeliveryState:
    """One signal that is exported to one receiver, and how its last export ended.

    A reason comes from one of two places. The transports of OTLP report each answer
    (`note_answer`). For what they do not see, the exporter's log records are read
    (`note_exporter_log`).

    Attributes:
        text: For people: ``traces: otlp_proto_http http://localhost:4318/v1/traces``.
        receiver: Shared by the signals that go to it.
        is_failing: True if the last export failed.
        is_unreachable: True if no server answered it. This is known from the first request of an
            export, some seconds before the exporter gives up.
        failures: How many exports have failed in this process.
    """

    def __init__(self, telemetry: str, text: str, receiver: Receiver) -> None:
        self.text = text
        self.receiver = receiver
        self.is_failing = False
        self.is_unreachable = False
        self.failures = 0
        self._telemetry = telemetry
        self._failure: ExportFailure | None = None
        self._is_watched = False
        if telemetry not in receiver.telemetry:
            receiver.telemetry.append(telemetry)

    def start(self) -> None:
        """Start an export: forget what is known of the one before."""
        self._failure = None
        self._is_watched = False

    def note_answer(self, failure: ExportFailure | None) -> None:
        """Record how one request of the export ended, of which the exporter may send more.

        Args:
            failure: Why the receiver did not take it; None if it did.
        """
        self._is_watched = True
        self._failure = failure
        self.is_unreachable = failure is not None and not failure.was_answered

    def note_exporter_log(self, record: logging.LogRecord) -> None:
        """Read why the export fails from a log record, if no answer has been recorded."""
        failure = None if self._is_watched else failure_in_log_record(record)
        if failure is not None:
            self._failure = failure
            self.is_unreachable = not failure.was_answered

    def note_full_queue(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - a listener's
        """Report that the span processor drops spans, with the reason of the export under way.

        Source: the SDK, 1.44 and 1.45. What its processor logs at WARNING is "Queue full" alone.
        """
        failure = self._failure or ExportFailure("queue full", was_answered=True)
        self.receiver.failed(self._telemetry, failure, time.monotonic())

    def succeeded(self) -> None:
        """Record that the export succeeded."""
        self.is_failing = self.is_unreachable = False
        self._failure = None
        self.receiver.succeeded(self._telemetry)

    def failed(self, failure: ExportFailure | None = None) -> None:
        """Record that the export failed, for *failure* or for the reason that was noted."""
        failure = failure or self._failure or UNEXPLAINED
        self.is_failing = True
        self.failures += 1
        self.is_unreachable = not failure.was_answered
        self.receiver.failed(self._telemetry, failure, time.monotonic())

    def timed_out(self) -> None:
        """Record that the export did not end in the time that it was given."""
        self.failed(self._failure or NO_ANSWER)

    def forked(self) -> None:
        """Start anew in a forked child, where no export has failed."""
        self.is_failing = self.is_unreachable = False
