"""Sinks: failures into the log, so that the request id is kept where there is no backend."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from assisters_otel import catalog, envelope, names

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.attempt import CallOutcome, Outcome, Request

_log = logging.getLogger(names.SCOPE)

WINDOW_S: Final = 60.0
"""A storm is what fails alike within this time."""

LINES: Final = 5
"""Lines that a storm gets; the rest of it is summed up in one."""

_UNKNOWN_CODE: Final = "an undocumented code"
_UNKNOWN_PATH: Final = "an undocumented path"
_MAX_KINDS: Final = 256


class Log:
    """One WARNING for each failed call, or attempt outside one; storms are summed up."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with no storm.

        Args:
            now: A steady clock, in seconds.
        """
        self._now = now
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        # What failed, where -> since when, how often.
        self._storms: dict[tuple[str, str], tuple[float, int]] = {}

    def record(self, outcome: Outcome, attempts: int = 1) -> None:
        """Write a failed attempt's line, or count one more of a storm.

        Args:
            outcome: How it, or the last of its call, ended.
            attempts: How many the call took.
        """
        what = outcome.reason or ""
        # What is not documented may be another one each time, and is one storm all the same.
        known = outcome.code is None or catalog.find(what) is not None
        if outcome.status is not None and outcome.code is None and outcome.exception is None:
            ours = what in {str(outcome.status), names.TRUNCATED, names.OTHER}
            known = ours or catalog.find_type(what) is not None
        line = partial(_line, outcome, attempts)
        self._record(what if known else _UNKNOWN_CODE, outcome.request, line)

    def record_call(self, outcome: CallOutcome) -> None:
        """Write a failed call's line, or count one more of a storm."""
        last = outcome.last
        if last is None or not last.failed:
            what = outcome.error_type or ""
            self._record(what, outcome.request, partial(_line_of_call, outcome))
            return
        self.record(last, outcome.retries + 1)

    def _record(self, what: str, request: Request, line: Callable[[str], str]) -> None:
        where = f"{request.method} {request.template or envelope.clean(request.path)}"
        kind = (what, where if request.template else _UNKNOWN_PATH)
        now = self._now()
        with self._lock:
            over = self._take_ended(now)
            if kind not in self._storms and len(self._storms) >= _MAX_KINDS:
                over += self._take_all()
            since, seen = self._storms.get(kind, (now, 0))
            self._storms[kind] = (since, seen + 1)
        self._sum_up(over)
        if seen < LINES:
            _log.warning("%s", line(where))
        elif seen == LINES:
            _log.warning(
                "Assisters API: %s on %s goes on and is summed up every %.0f s", *kind, WINDOW_S
            )

    def sum_up(self) -> None:
        """Write what has been counted and not yet said; at the end, for example."""
        with self._lock:
            over = self._take_all()
        self._sum_up(over)

    def _take_ended(self, now: float) -> list[tuple[tuple[str, str], int]]:
        ended = [k for k, (since, _) in self._storms.items() if now - since >= WINDOW_S]
        return [(kind, self._storms.pop(kind)[1]) for kind in ended]

    def _take_all(self) -> list[tuple[tuple[str, str], int]]:
        over = [(kind, seen) for kind, (_, seen) in self._storms.items()]
        self._storms.clear()
        return over

    @staticmethod
    def _sum_up(storms: list[tuple[tuple[str, str], int]]) -> None:
        for (what, where), seen in storms:
            if seen > LINES:
                _log.warning(
                    "Assisters API: %d more attempts met %s on %s", seen - LINES, what, where
                )


def _line(outcome: Outcome, attempts: int, where: str) -> str:
    what = outcome.reason
    if outcome.status is None:
        met = f"gave no answer ({what})"
    elif outcome.exception is not None:
        met = f"answered {outcome.status}, and broke off ({what}),"
    elif outcome.stream is not None:
        met = f"answered {outcome.status}, and its stream failed ({what}),"
    else:
        met = f"answered {outcome.status}" + ("" if what == str(outcome.status) else f" {what}")
    tried = f", {attempts} attempts" if attempts > 1 else ""
    request_id = envelope.text(outcome.headers.get(envelope.REQUEST_ID))
    quote = f" (request id {request_id})" if request_id else ""
    advice = "a retry can help" if outcome.retryable else "no retry helps"
    return f"Assisters API {met} on {where}{tried}{quote}: {advice}"


def _line_of_call(outcome: CallOutcome, where: str) -> str:
    last = outcome.last
    request_id = envelope.text(last.headers.get(envelope.REQUEST_ID)) if last else None
    quote = f" (request id {request_id})" if request_id else ""
    return f"Assisters API: the client failed ({outcome.error_type}) on {where}{quote}"
