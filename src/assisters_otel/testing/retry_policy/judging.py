"""Judges the calls that were played: one verdict for each rule. Pure."""

from __future__ import annotations

import json
from itertools import pairwise
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel.testing.retry_policy import rules
from assisters_otel.testing.retry_policy.scenarios import (
    CLOSED_S,
    CROWD,
    DATE,
    DROPPED,
    ONCE,
    OUTAGE,
    SECONDS,
    SILENT,
    STREAM,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from assisters_otel.testing.answers import Received
    from assisters_otel.testing.retry_policy.playing import Played

EARLY_S: Final = 0.05
"""How much shorter than Retry-After a wait may be, in seconds: a sleep may end a little early."""

GROWS: Final = 1.25
"""The least ratio of the last pause to the first that counts as growth. stamina's first pauses grow
least, by a third. Medians of 20 equal pauses differ by less."""

SPREAD: Final = 0.09
"""The least interquartile range of the pauses that counts as jitter, as a share of their median.
openai's jitter has 0.14. Without jitter a busy machine, which wakes threads late, has 0.02 to 0.07
at pauses of half a second."""

FALLS: Final = 0.7
"""The largest share of the previous pause at which an outer layer is taken to start anew."""

_STEPS: Final = 2
"""The number of pauses that show whether they grow."""

_TWO: Final = 2
_HALF: Final = 0.5
_NEVER: Final = 1e-3
"""A pause below this is none, in seconds."""


class Verdict(NamedTuple):
    """The verdict on one rule.

    Attributes:
        is_kept: True if the policy keeps the rule; None if the call gave no occasion to judge it.
        seen: The behaviour of the policy, for people.
        advice: Advice in place of the rule's own, or None.
    """

    is_kept: bool | None
    seen: str
    advice: str | None = None


class Evidence(NamedTuple):
    """The facts that the rules are judged by.

    Attributes:
        played: All calls.
        has_succeeded: Returns True for a call that has returned and counts as a success.
        calls_by_port: For the API on each port, the number of attempts of each call of an SDK.
    """

    played: Sequence[Played]
    has_succeeded: Callable[[Played], bool]
    calls_by_port: Mapping[int, Sequence[int]]

    def of(self, *names: str) -> list[Played]:
        """Return the calls of some scenarios."""
        return [one for one in self.played if one.scenario.name in names]


def judge(rule: str, evidence: Evidence) -> Verdict:
    """Return the verdict on a rule."""
    if rule in ONCE:
        return _survived(evidence, rule)
    return _JUDGES[rule](evidence)


# -- errors ---------------------------------------------------------------------------------------


def _survived(evidence: Evidence, rule: str) -> Verdict:
    (one,) = evidence.of(rule)
    is_kept = evidence.has_succeeded(one) and one.refusals[-1:] == [None]
    return Verdict(is_kept, f"{_attempts(one)}, {_end(one)}")


def _retry_after(evidence: Evidence) -> Verdict:
    told, early = [], False
    for one in evidence.of(*ONCE, SECONDS, DATE):
        asked_s = one.refusals[0].asked_s if one.refusals and one.refusals[0] else None
        again = _again(one)
        if asked_s is None or not again:
            continue
        waited_s = again[0].at_s - one.requests[0].at_s
        early = early or waited_s < asked_s - EARLY_S
        what = "a date in " if one.scenario.name == DATE else ""
        told.append(f"{waited_s:.1f} s after {what}{asked_s:.1f} s")
    return Verdict(not early, f"sent again {', '.join(told)}" if told else "nothing is sent again")


def _hopeless(evidence: Evidence) -> Verdict:
    again = []
    for one in evidence.of(*rules.HOPELESS):
        same = [other for other in _again(one) if _is_same(other, one.requests[0])]
        if same:
            again.append(one.scenario.name)
    if not again:
        return Verdict(is_kept=True, seen="none is sent again")
    all_of_them = len(again) == len(rules.HOPELESS)
    advice = rules.ADVICE_SAME_STATUS if again == [rules.SAME_STATUS] else None
    seen = f"all {len(again)}" if all_of_them else ", ".join(again)
    return Verdict(is_kept=False, seen=f"sent again after {seen}", advice=advice)


def _outage(evidence: Evidence) -> Verdict:
    (one,) = evidence.of(OUTAGE)
    return Verdict(one.has_ended, f"{_attempts(one)}, {_end(one)}")


def _surfaced(evidence: Evidence) -> Verdict:
    hidden = [
        one
        for one in evidence.of(*ONCE, *rules.HOPELESS, OUTAGE, DROPPED, SILENT)
        if one.refusals and one.refusals[-1] is not None and evidence.has_succeeded(one)
    ]
    if not hidden:
        return Verdict(is_kept=True, seen="every failure is raised, or told by succeeded=")
    names = [one.scenario.name for one in hidden]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    seen = f"{_end(hidden[0])} after {', '.join(names[:_SHOWN])}{more}"
    return Verdict(is_kept=False, seen=seen)


_SHOWN: Final = 3
"""The number of scenarios that are named in the report."""


# -- remarks --------------------------------------------------------------------------------------


def _pauses(evidence: Evidence) -> list[list[float]]:
    """Return the pauses of all callers before each resend, as long as half of them sent it."""
    callers = evidence.of(CROWD)
    steps: list[list[float]] = []
    for one in callers:
        sent = [one.requests[0], *_again(one)] if one.requests else []
        for step, (before, after) in enumerate(pairwise(sent)):
            steps[step:] = steps[step:] or [[]]
            steps[step].append(after.at_s - before.at_s)
    return [step for step in steps if len(step) >= len(callers) * _HALF]


def _told(pauses: Iterable[list[float]]) -> str:
    return ", ".join(f"{median(step):.2f}" for step in pauses) + " s"


def _back_off(evidence: Evidence) -> Verdict:
    pauses = _pauses(evidence)
    if len(pauses) < _STEPS:
        return Verdict(None, f"{len(pauses) + 1} attempts are too few to see it")
    first, last = median(pauses[0]), median(pauses[-1])
    return Verdict(last > max(first, _NEVER) * GROWS, f"pauses of {_told(pauses)} (medians)")


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
        return Verdict(False, f"{count} attempts: the SDK begins anew {anew} times")
    pauses = [median(step) for step in _pauses(evidence)]
    for number, (before, after) in enumerate(pairwise(pauses), 2):
        if after < before * FALLS and before > EARLY_S and number > _TWO:
            told = _told(_pauses(evidence))
            return Verdict(False, f"{count} attempts; pauses of {told} begin anew")
    return Verdict(True, _attempts(one))


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
    return Verdict(not evidence.has_succeeded(played[0]), _end(played[0]))


def _own_timeout(evidence: Evidence) -> Verdict:
    (one,) = evidence.of(SILENT)
    if not one.requests:
        return Verdict(None, "nothing was sent")
    if one.left_s is None:
        return Verdict(False, f"it still waited after {CLOSED_S:g} s")
    return Verdict(True, f"it gave up after {one.left_s - one.requests[0].at_s:.1f} s")


_JUDGES: Final[Mapping[str, Callable[[Evidence], Verdict]]] = {
    "retry_after": _retry_after,
    "hopeless": _hopeless,
    "outage": _outage,
    "surfaced": _surfaced,
    "back_off": _back_off,
    "jitter": _jitter,
    "layers": _layers,
    "idempotency": _idempotency,
    "streams": _streams,
    "own_timeout": _own_timeout,
}


# -- what both need -------------------------------------------------------------------------------


def asks_for_stream(request: Received) -> bool:
    """Return True if a request asks for an event stream."""
    if request.path.endswith("/agent/stream"):
        return True
    try:
        body = json.loads(request.body)
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("stream") is True


def _again(one: Played) -> list[Received]:
    """Return the later requests at the first one's URL."""
    first, *others = one.requests or (None,)
    if first is None:
        return []
    return [other for other in others if _target(other) == _target(first)]


def _target(request: Received) -> tuple[str, str, str]:
    return request.method, request.path, request.query


def _is_same(one: Received, other: Received) -> bool:
    keys = (request.headers.get("authorization") for request in (one, other))
    return one.body == other.body and len(set(keys)) == 1


def _attempts(one: Played) -> str:
    count = len(one.requests)
    return f"{count} attempt{'' if count == 1 else 's'}"


def _end(one: Played) -> str:
    """Return how a call ended.

    Of its exception or value the class is named, since the text may hold a key.
    """
    if not one.has_ended:
        return "no end in time"
    if one.error is not None:
        return f"raised {type(one.error).__name__}"
    return f"returned {type(one.value).__name__}"
