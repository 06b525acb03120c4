"""Sink: an `Outcome` into the log, so that the request id is kept where there is no backend."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from assisters_otel import catalog, envelope, names

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.attempt import Outcome

_log = logging.getLogger(names.SCOPE)

WINDOW_S: Final = 60.0
"""A storm is what fails alike within this time."""

LINES: Final = 5
"""Lines that a storm gets; the rest of it is summed up in one."""

_UNKNOWN_CODE: Final = "an undocumented code"
_UNKNOWN_PATH: Final = "an undocumented path"
_MAX_KINDS: Final = 256


class Log:
    """One WARNING for each failed attempt; storms are summed up."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with no storm.

        Args:
            now: A steady clock, in seconds.
        """
        self._now = now
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        # What failed, where -> since when, how often.
        self._storms: dict[tuple[str, str], tuple[float, int]] = {}

    def record(self, outcome: Outcome) -> None:
        """Write one line, or count one more of a storm."""
        request = outcome.request
        what = outcome.code or outcome.error_type or ""
        where = f"{request.method} {request.template or envelope.clean(request.path)}"
        # What is not documented may be another one each time, and is one storm all the same.
        known = outcome.code is None or catalog.find(what) is not None
        if outcome.status is not None and outcome.code is None:
            known = what == str(outcome.status) or catalog.find_type(what) is not None
        kind = (what if known else _UNKNOWN_CODE, where if request.template else _UNKNOWN_PATH)
        now = self._now()
        with self._lock:
            over = self._take_ended(now)
            if kind not in self._storms and len(self._storms) >= _MAX_KINDS:
                over += self._take_all()
            since, seen = self._storms.get(kind, (now, 0))
            self._storms[kind] = (since, seen + 1)
        self._sum_up(over)
        if seen < LINES:
            _log.warning("%s", _line(outcome, what, where))
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


def _line(outcome: Outcome, what: str, where: str) -> str:
    if outcome.status is None:
        met = f"gave no answer ({what})"
    else:
        met = f"answered {outcome.status}" + ("" if what == str(outcome.status) else f" {what}")
    request_id = envelope.text(outcome.headers.get(envelope.REQUEST_ID))
    quote = f" (request id {request_id})" if request_id else ""
    advice = "a retry can help" if outcome.retryable else "no retry helps"
    return f"Assisters API {met} on {where}{quote}: {advice}"
