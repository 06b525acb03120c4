"""Finds the call or the attempt through which an exception was raised, in its traceback.

`known_attempts` remembers an outcome by a weak reference to the exception. An exception of Python's
own, such as a KeyError, has none, and neither has pydantic's ValidationError. But the library's
functions around the clients' methods hold the call or the exchange in a local variable, and the
traceback of an exception keeps their frames. So nothing is kept for it, and nothing outlives it.

What would break it: other names of these variables. Also an app that removes the traceback, or
clears its frames as `unittest.TestCase.assertRaises` does: then the exception is explained by
itself (test_an_exception_that_has_lost_its_frames_is_not_said_to_have_had_no_answer).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from assisters_otel.attempts.attempt import Attempt
from assisters_otel.attempts.call import Call
from assisters_otel.sinks.known_attempts import KnownAttempt, span_context_of

if TYPE_CHECKING:
    from types import FrameType

    from opentelemetry.trace import Span

    from assisters_otel.outcomes import AttemptOutcome

_CLIENTS: Final = "assisters_otel.clients."
_MAX_FRAMES: Final = 2000
"""The frames that are looked at. Python's own limit of a recursion is 1000."""


def find_in_traceback(thing: object) -> KnownAttempt | None:
    """Return the record of the last attempt behind an exception, from its traceback, or None.

    Args:
        thing: An exception. There is none for anything else.
    """
    found, step = None, thing.__traceback__ if isinstance(thing, BaseException) else None
    for _ in range(_MAX_FRAMES):
        if step is None:
            break
        frame = step.tb_frame
        if str(frame.f_globals.get("__name__")).startswith(_CLIENTS):
            found = _recorded_in(frame) or found  # the innermost is the exception's own
        step = step.tb_next
    return found


def _recorded_in(frame: FrameType) -> KnownAttempt | None:
    held = frame.f_locals
    call, attempt = held.get("call"), getattr(held.get("exchange"), "attempt", None)
    outcome: AttemptOutcome | None = None
    span: Span | None = None
    if isinstance(call, Call):
        outcome, span = call.last, call.span
    elif isinstance(attempt, Attempt):
        outcome, span = attempt.outcome, attempt.span
    if outcome is None:
        return None
    return KnownAttempt(outcome, span_context_of(span), time.time())
