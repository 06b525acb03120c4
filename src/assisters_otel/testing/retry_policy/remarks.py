"""Judges the rules of the kind "remark". Pure."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

from assisters_otel.testing.retry_policy.evidence import (
    EARLY_S,
    Evidence,
    Verdict,
    attempts_text,
    end_text,
    pauses_by_step,
    pauses_text,
)
from assisters_otel.testing.retry_policy.jitter import judge_jitter
from assisters_otel.testing.retry_policy.scenarios import (
    CLOSED_S,
    CROWD,
    DROPPED,
    OUTAGE,
    SILENT,
    STREAM,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

GROWS: Final = 1.25
"""The least ratio of the last pause to the first that counts as growth. stamina's first pauses grow
least, by a third. Medians of 20 equal pauses differ by less."""

FALLS: Final = 0.4
"""The largest share of the previous pause at which an outer layer is taken to start anew. Pauses
that are all drawn from one range have medians of 20 with such a ratio once in 200 times."""

_STEPS: Final = 2
"""The number of pauses that show whether they grow."""


def _first_layer(evidence: Evidence) -> list[list[float]]:
    """Return the pauses until an outer layer starts anew, which may do so after a short pause."""
    pauses = pauses_by_step(evidence)
    for one in evidence.of(CROWD):
        calls = evidence.calls_by_port.get(one.port, ())
        if len(calls) > 1:
            return pauses[: calls[0] - 1]
    medians = [median(step) for step in pauses]
    falls = (
        number for number, (one, other) in enumerate(pairwise(medians), 1) if _falls(one, other)
    )
    return pauses[: next(falls, len(pauses))]


def _falls(before_s: float, after_s: float) -> bool:
    return after_s < before_s * FALLS and before_s > EARLY_S


def _back_off(evidence: Evidence) -> Verdict:
    pauses = _first_layer(evidence)
    if len(pauses) < _STEPS:
        return Verdict(None, f"{len(pauses) + 1} attempts are too few to see it")
    first, last = median(pauses[0]), median(pauses[-1])
    return Verdict(last > max(first * GROWS, EARLY_S), f"pauses of {pauses_text(pauses)} (medians)")


def _layers(evidence: Evidence) -> Verdict:
    (one,) = evidence.of(OUTAGE)
    count = len(one.requests)
    calls = [attempts for attempts in evidence.calls_by_port.get(one.port, ()) if attempts]
    if len(calls) > 1 and max(calls) > 1:
        return Verdict(False, f"{count} attempts: {max(calls)} in each of {len(calls)} calls")
    marks = [request.headers.get("x-stainless-retry-count") for request in one.requests]
    anew = marks.count("0")
    if anew > 1 and max(map(int, filter(None, marks))) > 0:
        return Verdict(False, f"{count} attempts: the SDK starts anew {anew} times")
    pauses = [median(step) for step in pauses_by_step(evidence)]
    # Two pauses are too few: the first may hold the time that it takes to make a client.
    if any(_falls(before, after) for before, after in pairwise(pauses[1:])):
        told = pauses_text(pauses_by_step(evidence))
        return Verdict(False, f"{count} attempts; pauses of {told} start anew")
    return Verdict(True, attempts_text(one))


def _idempotency(evidence: Evidence) -> Verdict:
    told = []
    for one in evidence.of(DROPPED, SILENT):
        if not one.requests or one.requests[0].method != "POST":
            return Verdict(None, "the call sends no POST")
        keys = [request.headers.get("idempotency-key") for request in one.requests]
        what = "a dropped connection" if one.scenario.name == DROPPED else "a time-out"
        if len(keys) > 1 and None in keys:
            told.append(f"without a key after {what}")
        elif len(set(keys)) > 1:
            told.append(f"with another key after {what}")
    if not any(len(one.requests) > 1 for one in evidence.of(DROPPED, SILENT)):
        return Verdict(True, "it is not sent again")
    return Verdict(not told, f"sent again {' and '.join(told)}" if told else "the same key")


def _streams(evidence: Evidence) -> Verdict:
    played = evidence.of(STREAM)
    if not played:
        return Verdict(None, "the call asks for no event stream")
    return Verdict(not evidence.has_succeeded(played[0]), end_text(played[0]))


def _own_timeout(evidence: Evidence) -> Verdict:
    (one,) = evidence.of(SILENT)
    if not one.requests:
        return Verdict(None, "nothing was sent")
    if one.left_s is None:
        return Verdict(False, f"it still waited after {CLOSED_S:g} s")
    return Verdict(True, f"it gave up after {one.left_s - one.requests[0].at_s:.1f} s")


REMARKS: Final[Mapping[str, Callable[[Evidence], Verdict]]] = {
    "back_off": _back_off,
    "jitter": judge_jitter,
    "layers": _layers,
    "idempotency": _idempotency,
    "streams": _streams,
    "own_timeout": _own_timeout,
}
