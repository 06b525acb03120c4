"""The attempts of one call, and what is remembered of a failed one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import SpanContext

    from assisters_otel.api.request import RequestReader

Key = tuple[int, int]
"""By what a failed attempt is found: an id of its task, thread or parent, and its identity."""


class CallBefore(NamedTuple):
    """The call that a failed attempt belonged to: its span, and which repetition it was."""

    span: SpanContext | None
    number: int


class Before(NamedTuple):
    """An attempt that failed or was cancelled, as far as its resend will tell of it.

    Attributes:
        number: Its own number as a resend; 0 for a request's first attempt.
        ended_s: When it ended, on a steady clock.
        reason: `AttemptOutcome.retry_reason`.
        span: Its span.
        wait_s: What its Retry-After asked for.
        hopeless: Whether no retry helps.
        authorization: A digest of the header, or None without one.
        call: The call that it belonged to.
    """

    number: int
    ended_s: float
    reason: str | None
    span: SpanContext | None
    wait_s: float | None
    hopeless: bool
    authorization: bytes | None
    call: CallBefore | None


class Hop(NamedTuple):
    """A redirect that has been answered, and not yet followed.

    Attributes:
        owner: Gives the task or thread that will follow it, or None if that is gone.
        url: Of where it leads, the hash.
        number: The number, as a resend, of the attempt that was answered so.
        identities: Of that attempt, and of those that were redirected to it.
    """

    owner: Callable[[], object]
    url: int
    number: int
    identities: tuple[int, ...]


class Chain:
    """The attempts of one call, one after the other.

    Attributes:
        call: What a later call will have to say of this one.
        resend_of: The span of the failed call that this one repeats, or None.
        sent: How many attempts there were.
        number: The last one's, as a resend.
        retries: How many of them were retries.
        wait_s: What went by between an attempt and its retry, in all.
        before: The last attempt, if it failed.
        hop: The redirect that the last attempt was answered with.
        keys: Under which the last attempt is remembered, if it failed.
    """

    __slots__ = (
        "before",
        "call",
        "hop",
        "keys",
        "number",
        "resend_of",
        "retries",
        "sent",
        "wait_s",
    )

    def __init__(self, call: SpanContext | None) -> None:
        """Begin with nothing sent.

        Args:
            call: The span of the call.
        """
        self.call = CallBefore(call, 0)
        self.resend_of: SpanContext | None = None
        self.sent = 0
        self.number = 0
        self.retries = 0
        self.wait_s = 0.0
        self.before: Before | None = None
        self.hop: Hop | None = None
        self.keys: tuple[Key, ...] = ()

    def follows(self, message: RequestReader) -> bool:
        """Say whether a request goes where the last answer has redirected this call."""
        return self.hop is not None and self.hop.url == hash(message.url())
