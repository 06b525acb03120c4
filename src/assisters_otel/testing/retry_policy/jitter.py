"""Judges whether callers that failed at the same time come back at the same time. Pure.

A pause is measured at the API, from one request to the next. It holds the wait of the policy and
the work of the caller until it sends. A policy that creates a client for each attempt works for
50 ms of CPU time. Where 20 callers do that work at the same time, each waits for the others. Then
fixed pauses of half a second differ by 200 ms. So the crowd can show that there is no jitter, and
cannot show that there is.

Where the crowd's pauses differ, a dozen calls are played far enough apart to leave each other
alone. Other processes still disturb them. Two things show how much:

* The time from a call's start to its first request holds work alone. Its variation is scaled to the
  CPU time that the work before a resend takes.
* A timer shows how late the machine wakes a thread.

The pauses have jitter if they vary more than both together. They have none if they hardly vary:
what disturbs them would have to cancel the jitter of each of them. In between they are not judged.
"""

from __future__ import annotations

from statistics import median, quantiles
from typing import TYPE_CHECKING, Final

from assisters_otel.testing.retry_policy.evidence import (
    EARLY_S,
    Evidence,
    Verdict,
    pauses,
    pauses_by_step,
    pauses_text,
)
from assisters_otel.testing.retry_policy.scenarios import CROWD, SPACED, SPACED_CALLERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assisters_otel.testing.retry_policy.playing import Played

STEADY: Final = 0.05
"""The interquartile range of a crowd's pauses, as a share of their median, up to which there is no
jitter. openai's jitter has 0.14, give or take 0.03."""

SPREAD: Final = 0.1
"""The range of the spaced pauses without the longest, as a share of their median, up to which there
is no jitter. openai's jitter has 0.19, give or take 0.03."""

_CLEAR: Final = 3.0
"""How many times as much as the work alone the pauses vary where there is jitter. Of two dozens of
the same work one varied up to 1.7 times as much as the other, beside busy processes."""

_WOKEN: Final = 0.25
"""The share of the variation of the start that a resend without any work has. A busy machine wakes
a thread late, however little the thread does then."""

_SLOWED: Final = 2.0
"""How many times its CPU time the work takes beside two busy processes on two cores. On a machine
that is busier the ratio of `_CLEAR` grows alike: at 7 times, pauses without jitter varied 2.8 times
as much as the work."""

_LATE: Final = 0.98
"""The share of the timer's delays that count: a single one is as late as it may be on any machine,
and `_spread_s` leaves out the longest pause."""

_WAKE_UPS: Final = 3
"""The threads that are woken in a pause: the caller's, and twice the API's."""

_LEAST_S: Final = 1e-6
"""A divisor in place of zero, in seconds."""


def refusals_to_judge(evidence: Evidence) -> int:
    """Return how many requests of a spaced call are refused to judge the jitter, 0 for no need."""
    steps = pauses_by_step(evidence)
    if not steps or not _may_be_jitter(steps):
        return 0
    return next(number for number, step in enumerate(steps, 1) if median(step) > EARLY_S)


def judge_jitter(evidence: Evidence) -> Verdict:
    """Return the verdict on the rule "jitter"."""
    steps = pauses_by_step(evidence)
    if not steps:
        return Verdict(None, "nothing is sent again")
    if not _may_be_jitter(steps):
        count = len(evidence.of(CROWD))
        seen = f"pauses of {pauses_text(steps)}, half of {count} callers within"
        return Verdict(False, f"{seen} {_crowd_spread(steps):.0%} of that")
    return _judge_spaced(evidence.of(SPACED), refusals_to_judge(evidence), evidence.late_s)


def _may_be_jitter(steps: Sequence[Sequence[float]]) -> bool:
    is_pause = median(median(step) for step in steps) > EARLY_S
    return is_pause and _crowd_spread(steps) > STEADY


def _crowd_spread(steps: Sequence[Sequence[float]]) -> float:
    shares = []
    for step in steps:
        low, _, high = quantiles(step, n=4) if len(step) > 1 else (0, 0, 0)
        shares.append((high - low) / max(median(step), _LEAST_S))
    return median(shares)


def _judge_spaced(played: Sequence[Played], refused: int, late_s: Sequence[float]) -> Verdict:
    calls = [one for one in played if len(pauses(one)) >= refused]
    if len(calls) * 2 <= SPACED_CALLERS:
        return Verdict(None, f"{len(calls)} of {len(played)} callers sent it again")
    found = [pauses(one)[refused - 1] for one in calls]
    spread_s = _spread_s(found)
    seen = f"{len(found)} callers, one by one, paused {min(found):.2f} to {max(found):.2f} s"
    if median(found) <= EARLY_S or spread_s <= median(found) * SPREAD:
        return Verdict(False, seen)
    if spread_s > _noise_s(calls, refused) + _late_s(late_s):
        return Verdict(True, seen)
    return Verdict(None, f"{seen}, on a machine too busy to tell it from jitter")


def _noise_s(calls: Sequence[Played], refused: int) -> float:
    """Return how far apart the work of the callers alone may set the pauses, in seconds."""
    starts = [one.requests[0].at_s - one.began_s for one in calls]
    work_at_start_s = max(median(one.cpu_s[1] - one.cpu_s[0] for one in calls), _LEAST_S)
    work_s = median(one.cpu_s[refused + 1] - one.cpu_s[refused] for one in calls)
    slowed = median(starts) / work_at_start_s
    share = min(work_s / work_at_start_s + _WOKEN, 1)
    return _spread_s(starts) * share * _CLEAR * max(slowed / _SLOWED, 1)


def _late_s(late_s: Sequence[float]) -> float:
    """Return how far apart the machine's own delays may set the pauses, in seconds."""
    ordered = sorted(late_s)
    return _WAKE_UPS * (ordered[int(len(ordered) * _LATE)] - ordered[0]) if ordered else 0.0


def _spread_s(values: Sequence[float]) -> float:
    """Return the range without the greatest value: a busy machine delays one call now and then."""
    ordered = sorted(values)
    return ordered[-2] - ordered[0]
