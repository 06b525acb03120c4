"""What is said when telemetry does not get through: one warning, and no more.

The exporters that we made are heard instead of printed, and what they said is said once
in words of our own. The exporters of the application log as ever.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from assisters_otel import logger
from assisters_otel.providers.exporter_logs import ExportFailure, failure_in_log_record

REPEAT_WARNING_S: Final = 300.0
"""How long a place that fails, recovers and fails again is not spoken of, in seconds."""


_SILENCE: Final = ExportFailure("no answer in time", answered=False)


class Receiver:
    """One place that telemetry goes to, and what has been said about it.

    Attributes:
        place: ``http://localhost:4318``, without user, password, path and query.
        whats: What goes there: ``spans``, ``metrics``, or both.
        lock: A forked process needs a new one. Re-entrant, since garbage collection may
            end a span, and find the queue full, while we hold it.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.whats: list[str] = []
        self.lock = threading.RLock()
        self._failing: dict[str, ExportFailure] = {}
        self._said: set[str] = set()
        self._said_at_s: dict[str, float] = {}

    def failed(self, what: str, hint: ExportFailure, now_s: float) -> None:
        """Warn that *what* does not get through, unless that has been said."""
        with self.lock:
            self._failing[what] = hint
            lost = [what]
            if not hint.answered:
                lost = [one for one in self.whats if one == what or one not in self._said]
            last_s = self._said_at_s.get(what)
            if what in self._said or (last_s is not None and now_s - last_s < REPEAT_WARNING_S):
                return
            self._said.update(lost)
            self._said_at_s.update(dict.fromkeys(lost, now_s))
        logger.warning(
            "telemetry does not get through to %s (%s): %s are dropped until it does; "
            "this is said once",
            self.place,
            hint.reason,
            " and ".join(lost),
        )

    def arrived(self, what: str) -> None:
        """Say that telemetry gets through again, if the opposite has been said."""
        if not self._failing:
            return
        with self.lock:
            # Whoever answers one signal answers: only refusals of another one stay.
            self._failing = {
                other: hint
                for other, hint in self._failing.items()
                if other != what and hint.answered
            }
            if self._failing or not self._said:
                return
            self._said.clear()
        logger.info("telemetry gets through to %s again", self.place)


class DeliveryState:
    """One signal on its way to one place, and how its last export went.

    Attributes:
        text: For people: ``traces: otlp_proto_http http://localhost:4318/v1/traces``.
        reach: The place, shared by the signals that go there.
        failing: Whether the last export failed.
        unreachable: Whether nobody answered it; known from the first attempt of an
            export, some seconds before the exporter gives up.
        failures: How many exports have failed in this process.
    """

    def __init__(self, what: str, text: str, reach: Receiver) -> None:
        self.text = text
        self.reach = reach
        self.failing = False
        self.unreachable = False
        self.failures = 0
        self._what = what
        self._hint: ExportFailure | None = None
        if what not in reach.whats:
            reach.whats.append(what)

    def begin(self) -> None:
        """Forget what was heard of the export before."""
        self._hint = None

    def hear(self, record: logging.LogRecord) -> None:
        """Take what an exporter logs for the reason it will fail for."""
        hint = failure_in_log_record(record)
        if hint is not None:
            self._hint = hint
            self.unreachable = not hint.answered

    def overflow(self, record: logging.LogRecord) -> None:
        """Take the processor's word that its queue is full, if need be for want of an answer."""
        if record.levelno >= logging.WARNING:
            hint = self._hint or ExportFailure("queue full", answered=True)
            self.reach.failed(self._what, hint, time.monotonic())

    def arrived(self) -> None:
        """Note that an export succeeded."""
        self.failing = self.unreachable = False
        self._hint = None
        self.reach.arrived(self._what)

    def failed(self, hint: ExportFailure | None = None) -> None:
        """Note that an export failed, for *hint* or for what was heard."""
        hint = hint or self._hint or _SILENCE
        self.failing = True
        self.failures += 1
        self.unreachable = not hint.answered
        self.reach.failed(self._what, hint, time.monotonic())
