"""The scenarios: how the fake API answers a call, and for which rules."""

from __future__ import annotations

import math
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from assisters_otel.records import Record
from assisters_otel.testing.retry_policy.rules import HOPELESS

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.testing.answers import Fault

ONCE: Final = {
    "rate_limited": "rate_limit_exceeded",
    "overloaded": "model_overloaded",
    "internal_error": "internal_error",
}
"""The rules about one error that passes, and the code that is met."""

SECONDS, DATE = "seconds", "date"
OUTAGE, CROWD, DROPPED, SILENT, STREAM = "outage", "crowd", "dropped", "silent", "stream"
SPACED = "spaced"
PASSES_S: Final = 1
"""The Retry-After of `rate_limited`, in seconds: the shortest that the API gives."""

ASKED_S: Final = 2
"""The Retry-After that must be kept, in seconds: longer than the first pause of most policies."""

CLOSED_S: Final = 6.0
"""After how long a connection without an answer is closed, in seconds: a client's own time-out of
5 s, which is httpx's, comes before that on a busy machine, too."""

CALLERS: Final = 20
"""How many callers meet the same outage at once. So many give a median that jitter leaves alone."""

CALLERS_IN_TURN: Final = 5
"""How many do one after the other, each as long as the whole of a call."""

SPACED_CALLERS: Final = 12
"""How many calls are played for the jitter of one pause. openai spreads a pause evenly over a
quarter of it. Of 12 such pauses all but the longest lie within a tenth once in 350 times."""

_CROWD_ATTEMPTS: Final = 7
"""Attempts of each of them: enough to see the pauses of two layers of three begin anew."""

_CROWD_S: Final = 12.0
"""How long the outage that they meet lasts, in seconds: a policy may wait for minutes."""

_MANY: Final = 100
"""Attempts of one call after which each has to wait: an endless loop without a pause would fill
the memory."""
_SLOW_S: Final = 1.0


class Refusal(Record):
    """An answer in place of a success, as `FakeApi.answers` has it.

    Attributes:
        code: The error code, or None.
        retry_after: The header, or None.
        asked_s: The number of seconds that Retry-After asks for, or None.
        delay_s: Seconds before the first byte.
        fault: The fault on the wire, or None.
    """

    code: str | None = None
    retry_after: str | float | None = None
    asked_s: float | None = None
    delay_s: float = 0
    fault: Fault | None = None


class Scenario(Record):
    """One scenario.

    Attributes:
        name: The name, for people.
        rules: The rules that it is played for. It is not played if all of them are left out.
        refuse: Returns the refusal of a request, or None for a success. It takes the request's
            number from 1 on, and the seconds since the first request.
        callers: The number of calls that it is played for.
    """

    name: str
    rules: tuple[str, ...]
    refuse: Callable[[int, float], Refusal | None]
    callers: int = 1


def _first(refusal: Refusal) -> Callable[[int, float], Refusal | None]:
    return lambda number, _: refusal if number == 1 else None


def _wait(wait_s: float) -> Callable[[int, float], Refusal | None]:
    return _first(Refusal("rate_limit_exceeded", retry_after=wait_s, asked_s=wait_s))


def _wait_until(number: int, _since_s: float) -> Refusal | None:
    if number > 1:
        return None
    now_s = time.time()
    until_s = math.ceil(now_s + ASKED_S)  # the header has whole seconds
    header = formatdate(until_s, usegmt=True)
    return Refusal("rate_limit_exceeded", retry_after=header, asked_s=until_s - now_s)


def _fail(number: int, _since_s: float) -> Refusal:
    return Refusal("model_overloaded", delay_s=_SLOW_S if number > _MANY else 0)


def _fail_for_a_while(number: int, since_s: float) -> Refusal | None:
    is_on = number < _CROWD_ATTEMPTS and since_s < _CROWD_S
    return Refusal("model_overloaded") if is_on else None


WELL: Final = Scenario("all is well", (), lambda *_: None)
"""Played before all others, and alone: it shows that the call does call the API."""

BROKEN_OFF: Final = Scenario(STREAM, ("streams",), lambda *_: Refusal(fault="unfinished"))
"""Played if the call asks for an event stream."""


def scenarios(*, parallel: bool) -> tuple[Scenario, ...]:
    """Return the scenarios that are played for every call."""
    first, *others = ONCE.items()
    return (
        Scenario(first[0], (first[0], "retry_after", "surfaced"), _wait(PASSES_S)),
        *(Scenario(rule, (rule, "surfaced"), _first(Refusal(code))) for rule, code in others),
        Scenario(SECONDS, ("retry_after",), _wait(ASKED_S)),
        Scenario(DATE, ("retry_after",), _wait_until),
        *(Scenario(code, ("hopeless", "surfaced"), _first(Refusal(code))) for code in HOPELESS),
        Scenario(OUTAGE, ("outage", "surfaced", "layers"), _fail),
        Scenario(DROPPED, ("idempotency", "surfaced"), _first(Refusal(fault="drop"))),
        Scenario(
            SILENT,
            ("own_timeout", "idempotency", "surfaced"),
            _first(Refusal(fault="drop", delay_s=CLOSED_S)),
        ),
        Scenario(
            CROWD,
            ("back_off", "jitter", "layers"),
            _fail_for_a_while,
            CALLERS if parallel else CALLERS_IN_TURN,
        ),
    )


def spaced(refused: int) -> Scenario:
    """Return the scenario for the jitter of one pause: *refused* requests, then success."""
    return Scenario(
        SPACED,
        ("jitter",),
        lambda number, _: Refusal("model_overloaded") if number <= refused else None,
        SPACED_CALLERS,
    )
