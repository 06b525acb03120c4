"""Judges the rules of the kind "remark". Pure."""

from __future__ import annotations

from itertools import pairwise
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final

from assisters_otel.testing.retry_policy.evidence import (
    EARLY_S,
    Evidence,
    Verdict,
    attempts_text,
    end_text,
    resends,
)
from assisters_otel.testing.retry_policy.scenarios import (
    CLOSED_S,
    CROWD,
    DROPPED,
    OUTAGE,
    SILENT,
    STREAM,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

GROWS: Final = 1.25
"""The least ratio of the last pause to the first that counts as growth. stamina's first pauses grow
least, by a third. Medians of 20 equal pauses differ by less."""

SPREAD: Final = 0.08
"""The least interquartile range of the pauses that counts as jitter, as a share of their median.
openai's jitter has 0.14, give or take 0.03 with 20 callers. Without jitter a busy machine, which
wakes threads late, has 0.02 to 0.07 at pauses of half a second."""

FALLS: Final = 0.4
"""The largest share of the previous pause at which an outer layer is taken to start anew. Pauses
that are all drawn from one range have medians of 20 with such a ratio once in 200 times."""

_STEPS: Final = 2
"""The number of pauses that show whether they grow."""

_HALF: Final = 0.5

_NEVER: Final = 1e-3
"""A pause below this is none, in seconds."""


def _pauses(evidence: Evidence) -> list[list[float]]:
    """Return the pauses of all callers before each resend, as long as half of them sent it."""
    callers = evidence.of(CROWD)
    steps: list[list[float]] = []
    for one in callers:
        sent = [one.requests[0], *resends(one)] if one.requests else []
        for step, (before, after) in enumerate(pairwise(sent)):
            steps[step:] = steps[step:] or [[]]
            steps[step].append(after.at_s - before.at_s)
    return [step for step in steps if len(step) >= len(callers) * _HALF]


def _told(pauses: Iterable[list[float]]) -> str:
    return ", ".join(f"{median(step):.2f}" for step in pauses) + " s"


def _first_layer(evidence: Evidence) -> list[list[float]]:
    """Return the pauses until an outer layer starts anew, which may do so after a short pause."""
    pauses = _pauses(evidence)
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
    return Verdict(last > max(first * GROWS, EARLY_S), f"pauses of {_told(pauses)} (medians)")


def _jitter(evidence: Evidence) -> Verdict:
    pauses = _pauses(evidence)
    if not pauses:
        return Verdict(None, "nothing is sent again")
    shares = []
    for step in pauses:
        low, _, high = quantiles(step, n=4) if len(step) > 1 else (0, 0, 0)
        shares.append((high - low) / max(median(step), _NEVER))
    spread = median(shares) if median(median(step) for step in pauses) > EARLY_S else 0
    count = len(evidence.of(CROWD))
    seen = f"pauses of {_told(pauses)}, half of {count} callers within {spread:.0%} of that"
    return Verdict(spread > SPREAD, seen)


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
    pauses = [median(step) for step in _pauses(evidence)]
    # Two pauses are too few: the first may hold the time that it takes to make a client.
    if any(_falls(before, after) for before, after in pairwise(pauses[1:])):
        told = _told(_pauses(evidence))
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
    "jitter": _jitter,
    "layers": _layers,
    "idempotency": _idempotency,
    "streams": _streams,
    "own_timeout": _own_timeout,
}
