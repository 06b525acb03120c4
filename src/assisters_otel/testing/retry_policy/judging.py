"""Judges the calls that were played: one verdict for each rule. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel.testing.retry_policy import rules
from assisters_otel.testing.retry_policy.evidence import (
    EARLY_S,
    Evidence,
    Verdict,
    attempts_text,
    end_text,
    is_same_request,
    resends,
)
from assisters_otel.testing.retry_policy.remarks import REMARKS
from assisters_otel.testing.retry_policy.scenarios import (
    DATE,
    DROPPED,
    ONCE,
    OUTAGE,
    SECONDS,
    SILENT,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SHOWN: Final = 3
"""The number of scenarios that are named in the report."""


def judge(rule: str, evidence: Evidence) -> Verdict:
    """Return the verdict on a rule."""
    if rule in ONCE:
        return _survived(evidence, rule)
    return _JUDGES[rule](evidence)


def _survived(evidence: Evidence, rule: str) -> Verdict:
    (one,) = evidence.of(rule)
    is_kept = evidence.has_succeeded(one) and one.refusals[-1:] == [None]
    return Verdict(is_kept, f"{attempts_text(one)}, {end_text(one)}")


def _retry_after(evidence: Evidence) -> Verdict:
    told, early = [], False
    for one in evidence.of(*ONCE, SECONDS, DATE):
        asked_s = one.refusals[0].asked_s if one.refusals and one.refusals[0] else None
        again = resends(one)
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
        same = [other for other in resends(one) if is_same_request(other, one.requests[0])]
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
    return Verdict(one.has_ended, f"{attempts_text(one)}, {end_text(one)}")


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
    seen = f"{end_text(hidden[0])} after {', '.join(names[:_SHOWN])}{more}"
    return Verdict(is_kept=False, seen=seen)


_JUDGES: Final[Mapping[str, Callable[[Evidence], Verdict]]] = {
    "retry_after": _retry_after,
    "hopeless": _hopeless,
    "outage": _outage,
    "surfaced": _surfaced,
    **REMARKS,
}
