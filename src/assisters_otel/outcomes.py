"""The records that flow from the recording of a request to the sinks. Frozen and pure.

An *attempt* is one HTTP request, as in the semantic conventions. A *call* is one call of an SDK's
method: retried twice, it has three attempts. A *resend* is an attempt that sends the same request
again, as a retry or as a redirect's hop.

`AttemptOutcome` records how an attempt ended, `StreamOutcome` how the event stream in its response
body ended, `CallOutcome` how a call ended, and `Resend` what an attempt is a resend of.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from assisters_otel import catalog
from assisters_otel.api.identity import NOBODY
from assisters_otel.records import Record
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import SpanContext

    from assisters_otel.api.answer import Answer
    from assisters_otel.api.error_body import Envelope
    from assisters_otel.api.identity import Identity
    from assisters_otel.api.request import ApiRequest
    from assisters_otel.causes import Cause

FIRST_REDIRECT: Final = 300
"""The lowest status of a redirect."""

FIRST_ERROR: Final = 400
"""The lowest status of a failed attempt."""

_NO_ANSWER: Final = frozenset({"APIConnectionError", "APITimeoutError"})
"""The names of the exceptions of `openai` for a request without an answer."""

_NONE: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class StreamOutcome(Record):
    """How the event stream in a response's body ended.

    Attributes:
        outcome: One of `names.STREAM_OUTCOMES`.
        chunks: The number of data events received, without ``[DONE]``.
        first_chunk_s: Seconds from the start of the call to the first data event, or None if there
            was none. Outside a call they count from the start of the request.
        answer: The record of the answer in its last events, or None. It has a usage only if the
            stream is complete.
    """

    outcome: str
    chunks: int
    first_chunk_s: float | None
    answer: Answer | None = None

    @property
    def failed(self) -> bool:
        """True if the stream failed after its response had a status of success."""
        return self.outcome in {names.STREAM_ERROR, names.TRUNCATED}


class AttemptOutcome(Record):
    """How an attempt ended: with a response, with an exception, or cancelled by its caller.

    `AttemptOutcome.of` computes `failed`, `code`, `error_type` and `retryable` from the others.

    Attributes:
        request: The request that was sent.
        duration_s: Seconds from sending to the response headers, or to the failure.
        status: The HTTP status, or None without a response.
        headers: The response headers that `response_headers.known_headers` selected.
        envelope: The error in the response's body, or in an event of it; or None.
        exception: The name of the exception that was raised in place of a response, or while the
            body was read; or None.
        cancelled: True if the caller gave up. That is no failure.
        transient: True if the exception came from the connection, the peer or a timeout, so that a
            retry can help. False for a mistake of the app or the client.
        cause: The cause of the exception, if the exception's name does not show it; or None.
        stream: How the body's event stream ended; None if there is none, or if it is still open.
        is_unusable: True if the answer has a status of success and is none: an error or a page is
            in place of the result, or the SDK cannot parse it (`unusable_answer`).
        failed: True if the status is 400 or above, or if no complete response came. False if
            cancelled.
        code: The envelope's code, as sent, or None.
        error_type: The envelope's type; else the status; else the exception's name. A stream
            without any of them is ``truncated``, or its error ``_OTHER``, as is that of an unusable
            answer. None on success.
        retryable: True if the attempt failed, and the same request can succeed if it is sent again
            soon.
        retry_reason: The reason for a resend of this attempt: the code, else the type of error.
        caller: Whose request it was.
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
    is_unusable: bool
    failed: bool
    code: str | None
    error_type: str | None
    retryable: bool
    retry_reason: str | None
    caller: Identity = NOBODY

    @classmethod
    def of(  # noqa: PLR0913 - all that is known of an attempt
        cls,
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
        caller: Identity = NOBODY,
        is_unusable: bool = False,
    ) -> AttemptOutcome:
        """Return the outcome of an attempt, with whether and as what it failed.

        That is computed once here, because each sink reads it several times. For the arguments see
        the attributes of the class.
        """
        code, type_ = (None, None) if envelope is None else (envelope.code, envelope.type)
        error_type, retryable = None, False
        if cancelled:
            failed, error_type = False, names.CANCELLED
        elif stream is not None:
            failed = stream.failed
        else:
            failed = status is None or exception is not None or status >= FIRST_ERROR or is_unusable
        if failed:
            is_truncated = stream is not None and stream.outcome == names.TRUNCATED
            if exception is None and (stream is not None or is_unusable):
                error_type = type_ or (names.TRUNCATED if is_truncated else names.OTHER)
            else:
                error_type = type_ or exception or str(status)
            if status is None or exception is not None:
                retryable = transient
            else:
                retryable = is_truncated or catalog.retryable(code, type_, status)
        # By position: by keyword it would take three times as long, for every attempt.
        return cls(
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
            is_unusable,
            failed,
            code,
            error_type,
            retryable,
            code or error_type,
            caller,
        )

    @classmethod
    def of_success(
        cls,
        request: ApiRequest,
        duration_s: float,
        status: int,
        headers: Mapping[bytes, bytes],
        caller: Identity,
    ) -> AttemptOutcome:
        """Return what `of` returns for a status below 400 (``200, alone``)."""
        end = None, None, False, False, None, None, False, False, None, None, False, None
        return cls(request, duration_s, status, headers, *end, caller)

    @property
    def is_redirect(self) -> bool:
        """True if the response had a status from 300 on, below 400."""
        return self.status is not None and FIRST_REDIRECT <= self.status < FIRST_ERROR


class Resend(Record):
    """The relation of an attempt to the previous attempt of the same request.

    Attributes:
        number: The number of the resend, 1 or more.
        is_retry: True if the previous attempt failed or was cancelled. False for a redirect's hop,
            for which the attributes below stay at their defaults.
        reason: The previous attempt's `AttemptOutcome.retry_reason`. This one and those below are
            None if only a header reports that there was a previous attempt.
        delay_s: Seconds from the end of the previous attempt to this send.
        early: True if the delay is shorter than the previous Retry-After asked, and both attempts
            have the same Authorization. None without a Retry-After.
        futile: True if no retry helps against the previous attempt's error, and both attempts have
            the same Authorization.
        previous_span: The context of the previous attempt's span.
    """

    number: int
    is_retry: bool = True
    reason: str | None = None
    delay_s: float | None = None
    early: bool | None = None
    futile: bool | None = None
    previous_span: SpanContext | None = None


class CallOutcome(Record):
    """How one call of an SDK ended, retries included.

    Attributes:
        request: The request that the SDK was asked to send.
        operation: The operation's name in the GenAI conventions, ``chat``, or None.
        model: The model's name in the request, cleaned, or None.
        outcome: One of `names.OUTCOMES`.
        duration_s: Seconds from the start of the call to the end of its response body.
        retries: The number of attempts after the first, without redirects' hops.
        wait_s: The total of the seconds between an attempt and its retry.
        last: The outcome of the last attempt, or None if the library saw none.
        exception: The name of the exception that ended the call, or None.
        answer: The record of the answer, or None if there is none.
        caller: Whose call it was.
    """

    request: ApiRequest
    operation: str | None
    model: str | None
    outcome: str
    duration_s: float
    retries: int
    wait_s: float
    last: AttemptOutcome | None
    exception: str | None
    answer: Answer | None = None
    caller: Identity = NOBODY

    @property
    def failed(self) -> bool:
        """True if the call failed, after all its retries."""
        return self.outcome == names.FAILED

    @property
    def error_type(self) -> str | None:
        """The last attempt's type of error, else the exception's name. None unless failed."""
        if not self.failed:
            return None
        if self.last is not None and self.last.failed:
            return self.last.error_type
        return self.exception or names.OTHER

    @property
    def retryable(self) -> bool:
        """True if the call failed, and the same call can succeed if it is made again soon.

        A client that fails after an answer fails again. Without an attempt the SDK's exception
        decides (an `http_client` of the app's that sends by itself).
        """
        if not self.failed:
            return False
        if self.last is None:
            return self.exception in _NO_ANSWER
        return self.last.failed and self.last.retryable

    @property
    def code(self) -> str | None:
        """The last attempt's code, if the call failed and the attempt has one."""
        return self.last.code if self.failed and self.last is not None else None
