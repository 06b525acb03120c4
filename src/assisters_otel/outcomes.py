"""The records that flow from a client to the sinks. Pure.

An *attempt* is one HTTP request, as the semantic conventions say: a *call* of an SDK
that is retried twice has three.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel import catalog
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import SpanContext

    from assisters_otel.api.error_body import Envelope
    from assisters_otel.api.request import ApiRequest
    from assisters_otel.causes import Cause

REDIRECTED: Final = 300
"""The first status that is a redirect."""

FAILED: Final = 400
"""The first status that is a failure."""

_NONE: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class StreamOutcome(NamedTuple):
    """How an answer's event stream ended.

    Attributes:
        outcome: One of `names.STREAM_OUTCOMES`.
        chunks: Data events that came, ``[DONE]`` not counted.
        first_chunk_s: From the start of the call, or outside one of the request, to the
            first of them; None if there was none.
    """

    outcome: str
    chunks: int
    first_chunk_s: float | None

    @property
    def failed(self) -> bool:
        """Whether it failed after its status."""
        return self.outcome in {names.STREAM_ERROR, names.TRUNCATED}


class Outcome(NamedTuple):
    """How an attempt ended: with an answer, without one, or cancelled by its caller.

    Made by `judge`, which finds out the last four from the rest.

    Attributes:
        request: What was sent.
        duration_s: From sending to the response headers, or to the failure.
        status: The HTTP status, or None without an answer.
        headers: What `response_headers.pick` took from the response.
        envelope: The error in the body, or in an event of it; or None.
        exception: The name of the exception in place of an answer, or in the middle
            of its body; or None.
        cancelled: The caller gave up; that is no failure.
        transient: With an exception: whether it was the connection, the peer or the
            clock that failed, so a retry can help, and not a mistake on our side.
        cause: With an exception: what it came of, where its name does not say that.
        stream: How its event stream ended, if it has one and that is over.
        failed: Whether it got a status of 400 or above, or no whole answer; not if cancelled.
        code: The envelope's code, as sent, or None.
        error_type: The envelope's type; else the status; else the exception's name. A stream
            that says less than that is ``truncated``, or its error ``_OTHER``. None on success.
        retryable: Whether it failed, and the same request can succeed if it is sent again soon.
    """

    request: ApiRequest
    duration_s: float
    status: int | None
    headers: Mapping[bytes, bytes]
    envelope: Envelope | None
    exception: str | None
    cancelled: bool
    transient: bool
    cause: Cause | None
    stream: StreamOutcome | None
    failed: bool
    code: str | None
    error_type: str | None
    retryable: bool

    @property
    def is_redirect(self) -> bool:
        """Whether it was answered with a status from 300 on, below 400."""
        return self.status is not None and REDIRECTED <= self.status < FAILED

    @property
    def reason(self) -> str | None:
        """What an attempt after this one is sent for: the code, else the type."""
        return self.code or self.error_type


def judge(  # noqa: PLR0913 - all that is known of an attempt
    request: ApiRequest,
    duration_s: float,
    *,
    status: int | None = None,
    headers: Mapping[bytes, bytes] = _NONE,
    envelope: Envelope | None = None,
    exception: str | None = None,
    cancelled: bool = False,
    transient: bool = False,
    cause: Cause | None = None,
    stream: StreamOutcome | None = None,
) -> Outcome:
    """Say how an attempt ended, by what was seen of it: see `Outcome`.

    Once for all sinks: each of them asks for it several times.
    """
    code, type_ = (None, None) if envelope is None else (envelope.code, envelope.type)
    error_type, retryable = None, False
    if cancelled:
        failed, error_type = False, names.CANCELLED
    elif stream is not None:
        failed = stream.failed
    else:
        failed = status is None or exception is not None or status >= FAILED
    if failed:
        is_truncated = stream is not None and stream.outcome == names.TRUNCATED
        if exception is None and stream is not None:
            error_type = type_ or (names.TRUNCATED if is_truncated else names.OTHER)
        else:
            error_type = type_ or exception or str(status)
        if status is None or exception is not None:
            retryable = transient
        else:
            retryable = is_truncated or catalog.retryable(code, type_, status)
    return Outcome(
        request,
        duration_s,
        status,
        headers,
        envelope,
        exception,
        cancelled,
        transient,
        cause,
        stream,
        failed,
        code,
        error_type,
        retryable,
    )


class Resend(NamedTuple):
    """What is known of an attempt that is not its request's first.

    Attributes:
        number: Which resend it is, 1 or more.
        is_retry: Whether the attempt before failed or was cancelled; a redirect's hop
            is a resend and no retry, and nothing below is known of it.
        reason: `Outcome.reason` of the attempt before. None, as all below, where only
            a header tells that there was one.
        delay_s: From the end of the attempt before to this send.
        early: Whether that is sooner than its Retry-After asked, and the Authorization is the
            same as it was; None without a Retry-After.
        futile: Whether no retry helps against its error, and the Authorization is the
            same as it was.
        span: The span of the attempt before.
    """

    number: int
    is_retry: bool = True
    reason: str | None = None
    delay_s: float | None = None
    early: bool | None = None
    futile: bool | None = None
    span: SpanContext | None = None


class CallOutcome(NamedTuple):
    """How one call of an SDK ended, retries included.

    Attributes:
        request: What the SDK was asked to send.
        operation: As the GenAI conventions name it, ``chat``, or None.
        model: As asked for, clean, or None.
        outcome: One of `names.OUTCOMES`.
        duration_s: From its start to the end of its body.
        retries: Attempts after the first, redirects' hops not counted.
        wait_s: What went by between an attempt and the next, in all.
        last: The last attempt, or None if none was seen.
        exception: The name of the exception that the call ended with, or None.
    """

    request: ApiRequest
    operation: str | None
    model: str | None
    outcome: str
    duration_s: float
    retries: int
    wait_s: float
    last: Outcome | None
    exception: str | None

    @property
    def failed(self) -> bool:
        """Whether the caller got no answer, however often it was tried."""
        return self.outcome == names.FAILED

    @property
    def error_type(self) -> str | None:
        """The last attempt's, if it failed; else the exception's name. None unless failed."""
        if not self.failed:
            return None
        if self.last is not None and self.last.failed:
            return self.last.error_type
        return self.exception or names.OTHER

    @property
    def code(self) -> str | None:
        """The last attempt's, if it failed and has one."""
        return self.last.code if self.failed and self.last is not None else None
