"""The facts that the rules are judged by, and the verdict on one of them. Pure."""

from __future__ import annotations

import json
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

from assisters_otel.records import Record
from assisters_otel.testing.retry_policy.scenarios import CROWD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from assisters_otel.testing.answers import Received
    from assisters_otel.testing.retry_policy.playing import Played

EARLY_S: Final = 0.05
"""How much shorter than Retry-After a wait may be, in seconds: a sleep may end a little early."""

_HALF: Final = 0.5


class Verdict(Record):
    """The verdict on one rule.

    Attributes:
        is_kept: True if the policy keeps the rule; None if the call gave no occasion to judge it.
        seen: The behaviour of the policy, for people.
        advice: Advice in place of the rule's own, or None.
    """

    is_kept: bool | None
    seen: str
    advice: str | None = None


class Evidence(Record):
    """The facts that the rules are judged by.

    Attributes:
        played: All calls.
        has_succeeded: Returns True for a call that has returned and counts as a success.
        calls_by_port: For the API on each port, the number of attempts of each call of an SDK.
        late_s: The delays of a timer while the spaced calls were played, in seconds.
    """

    played: Sequence[Played]
    has_succeeded: Callable[[Played], bool]
    calls_by_port: Mapping[int, Sequence[int]]
    late_s: Sequence[float] = ()

    def of(self, *names: str) -> list[Played]:
        """Return the calls of some scenarios."""
        return [one for one in self.played if one.scenario.name in names]


def asks_for_stream(request: Received) -> bool:
    """Return True if a request asks for an event stream."""
    if request.path.endswith("/agent/stream"):
        return True
    try:
        body = json.loads(request.body)
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("stream") is True


def resends(one: Played) -> list[Received]:
    """Return the later requests at the first one's URL."""
    first, *others = one.requests or (None,)
    if first is None:
        return []
    return [other for other in others if _target(other) == _target(first)]


def pauses(one: Played) -> list[float]:
    """Return the seconds before each resend of a call."""
    sent = [one.requests[0], *resends(one)] if one.requests else []
    return [after.at_s - before.at_s for before, after in pairwise(sent)]


def pauses_by_step(evidence: Evidence) -> list[list[float]]:
    """Return the pauses of the crowd before each resend, as long as half of them sent it."""
    callers = evidence.of(CROWD)
    steps: list[list[float]] = []
    for one in callers:
        for step, pause_s in enumerate(pauses(one)):
            steps[step:] = steps[step:] or [[]]
            steps[step].append(pause_s)
    return [step for step in steps if len(step) >= len(callers) * _HALF]


def pauses_text(steps: Iterable[Sequence[float]]) -> str:
    """Return the median of each step's pauses, for people."""
    return ", ".join(f"{median(step):.2f}" for step in steps) + " s"


def _target(request: Received) -> tuple[str, str, str]:
    return request.method, request.path, request.query


def is_same_request(one: Received, other: Received) -> bool:
    """Return True if two requests have the same body and the same Authorization."""
    keys = (request.headers.get("authorization") for request in (one, other))
    return one.body == other.body and len(set(keys)) == 1


def attempts_text(one: Played) -> str:
    """Return how many attempts a call made, for people."""
    count = len(one.requests)
    return f"{count} attempt{'' if count == 1 else 's'}"


def end_text(one: Played) -> str:
    """Return how a call ended.

    Of its exception or value the class is named, since the text may hold a key.
    """
    if not one.has_ended:
        return "no end in time"
    if one.error is not None:
        return f"raised {type(one.error).__name__}"
    return f"returned {type(one.value).__name__}"
