"""The chain of a call's attempts, and the records of failed attempts and of a redirect.

`resends` fills them and reads them. They hold digests and numbers, and no request.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import SpanContext

    from assisters_otel.attempts.control_flow import Origin

Key = tuple[int, int]
"""The key of a failed attempt: the id of its task, thread or parent span, and its identity."""


class PreviousCall(Record):
    """The call that a failed attempt belonged to: its span, and its own number as a resend."""

    span: SpanContext | None
    number: int


class FailedAttempt(Record):
    """The record of an attempt that failed or was cancelled, for the attributes of its resend.

    Attributes:
        number: Its own number as a resend; 0 for a request's first attempt.
        ended_s: The time of its end, on a steady clock.
        reason: `AttemptOutcome.retry_reason`.
        span: The context of its span, or None without one.
        wait_s: The seconds that its Retry-After asked for, or None without one.
        is_permanent: True if no retry helps.
        credential: `Identity.credential`.
        call: The call that it belonged to, or None.
    """

    number: int
    ended_s: float
    reason: str | None
    span: SpanContext | None
    wait_s: float | None
    is_permanent: bool
    credential: int | None
    call: PreviousCall | None


class RememberedAttempt(Record):
    """A failed attempt, and the flow of control that sent it.

    Attributes:
        before: The record of the attempt for its resend.
        origin: The flow of control.
        started_s: When it was sent, on a steady clock.
        send: The send of a client's own retry code that it ended in, or None.
        has_company: `Attempt.has_company`.
        is_shared: True for the entry under the parent span or the unit of work.
        is_fan_out: True if an equal request with the same parent was in flight at the same time and
            failed as well. Such requests are a fan-out, not a retry loop.
        is_resent: True if it has its resend. A shared entry stays, so that an equal request that
            is still in flight and fails later is known to be part of a fan-out.
        succeeded_s: When an equal request with the same parent last succeeded, on the same clock.
    """

    before: FailedAttempt
    origin: Origin
    started_s: float
    send: object | None = None
    has_company: bool = False
    is_shared: bool = False
    is_fan_out: bool = False
    is_resent: bool = False
    succeeded_s: float = -math.inf


class PendingRedirect(Record):
    """A redirect that has been answered, and that the client has not followed yet.

    Attributes:
        owner: A function that returns the task or thread that will follow it, or None if that is
            gone.
        url: The hash of the URL that it leads to.
        number: The number, as a resend, of the attempt that was redirected.
        identities: The identities of that attempt, and of those that were redirected to it.
    """

    owner: Callable[[], object]
    url: int
    number: int
    identities: tuple[int, ...]


class RetryChain:
    """The attempts of one call, one after the other.

    Attributes:
        call: The record of this call, for a later call that repeats it.
        resend_of: The span of the failed call that this one repeats, or None.
        has_sent: True if an attempt was sent.
        number: The number of the last attempt as a resend.
        retries: The number of retries among the attempts.
        wait_s: The seconds between attempts and their retries, in all.
        last_failed: The record of the last attempt if it failed, or None.
        hop: The redirect that the last attempt was answered with, or None.
        keys: The keys under which the last attempt is remembered, if it failed.
    """

    __slots__ = (
        "call",
        "has_sent",
        "hop",
        "keys",
        "last_failed",
        "number",
        "resend_of",
        "retries",
        "wait_s",
    )

    def __init__(self, call: SpanContext | None) -> None:
        """Start without an attempt.

        Args:
            call: The context of the call's span, or None.
        """
        self.call = PreviousCall(call, 0)
        self.resend_of: SpanContext | None = None
        self.has_sent = False
        self.number = 0
        self.retries = 0
        self.wait_s = 0.0
        self.last_failed: FailedAttempt | None = None
        self.hop: PendingRedirect | None = None
        self.keys: tuple[Key, ...] = ()
