"""An attempt on its way, until its response or its failure is reported."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from assisters_otel import causes
from assisters_otel.api import error_body, event_stream, redaction
from assisters_otel.api import headers as response_headers
from assisters_otel.api.content_encoding import decode_body
from assisters_otel.api.headers import header_integer, known_headers, may_be_read_ahead
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import FIRST_ERROR, FIRST_REDIRECT, AttemptOutcome
from assisters_otel.recording import response_body
from assisters_otel.recording.response_body import Answer
from assisters_otel.sinks import foreign_span
from assisters_otel.sinks.known_attempts import remember_attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from assisters_otel.attempts.attempt import Sending
    from assisters_otel.attempts.call import Call
    from assisters_otel.recording.recorder import Observer

_SUCCESS: Final = 200
_ID: Final = b"req_"
_BRACE: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")


class Attempt:
    """One attempt on its way. Every way out of it passes `Observer.finish` once."""

    __slots__ = (
        "_call",
        "_duration_s",
        "_headers",
        "_observer",
        "_outcome",
        "_sending",
        "_started",
        "_status",
    )

    def __init__(self, observer: Observer, sending: Sending, call: Call | None) -> None:
        self._observer = observer
        self._sending = sending
        self._call = call
        self._duration_s = 0.0
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._outcome: AttemptOutcome | None = None
        self._started = time.perf_counter()

    def answered(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Take the response's headers, which end the attempt's duration.

        Args:
            status: The HTTP status.
            headers: Names and values as sent.

        Returns:
            Whether it failed, so the body is wanted by `ended`.
        """
        self._duration_s = time.perf_counter() - self._started
        self._status = status
        self._headers = known_headers(headers)
        return status >= FIRST_ERROR

    def body_may_be_read(self) -> bool:
        """Say whether the body of what `answered` took may be read ahead."""
        return may_be_read_ahead(self._headers)

    def length(self) -> int | None:
        """Say how long the peer says the body is, in bytes."""
        return header_integer(self._headers.get(response_headers.CONTENT_LENGTH))

    def ended(self, body: bytes | None = None) -> None:
        """Report an answer.

        Args:
            body: What was read of a failed answer's body, as sent or as its client has decoded
                it; None if nothing was.
        """
        error = _envelope(body, self._headers) if body else None
        if error is not None:
            error = self._sending.without_secrets(error)
        if self._status >= FIRST_ERROR or self._is_odd():
            self._hide_secrets()
        self._finish(
            AttemptOutcome.of(
                self._sending.request,
                self._duration_s,
                status=self._status,
                headers=self._headers,
                envelope=error,
            )
        )

    def _is_odd(self) -> bool:
        """Return True if the request id is none as the API makes them."""
        return not self._headers.get(response_headers.REQUEST_ID, _ID).startswith(_ID)

    @fail_safe
    def _hide_secrets(self) -> None:
        """Take what the request's own headers hold out of a request id that quotes it."""
        quoted = self._headers.get(response_headers.REQUEST_ID)
        if quoted is not None:
            told = redaction.without(quoted.decode("latin-1"), self._sending.secrets())
            self._headers[response_headers.REQUEST_ID] = told.encode("latin-1", "replace")

    @property
    def is_to_be_watched(self) -> bool:
        """Whether anybody wants to know how the body of a successful answer ends."""
        return self._call is not None or response_headers.is_event_stream(self._headers)

    def body(
        self, is_transient: Callable[[BaseException], bool | None], sent: object
    ) -> response_body.Body | None:
        """Begin watching the body of a successful answer, once `ended` has reported that.

        Args:
            is_transient: Says of an exception whether the connection, the peer or the
                clock failed, and not we.
            sent: The app's request or response, by which `explain` finds what became of its
                stream.

        Returns:
            None if nobody asks.
        """
        if not _SUCCESS <= self._status < FIRST_REDIRECT:
            return None
        events = event_stream.scanner_for(self._headers)
        call, outcome = self._call, self._outcome
        if outcome is None or (call is None and events is None):
            return None
        answer = Answer(self._observer, self._sending, call, outcome, is_transient, sent)
        self._sending.origin()  # now: whoever reads the body may be somebody else
        began_s = self._started if call is None else call.started_s
        answer.body = response_body.Body(answer, events, self._sending.request.template, began_s)
        if call is not None:
            call.answered(answer.body)
        else:
            answer.span = self._observer.open_stream(self._sending)
            self._observer.waits(answer)
        return answer.body

    def raised(self, error: BaseException, *, transient: bool) -> None:
        """Report that there is no answer. The caller raises *error* again.

        Args:
            error: What came in its place. What is no `Exception` is the caller giving up.
            transient: Whether the connection, the peer or the clock failed, and not we.
        """
        duration_s = time.perf_counter() - self._started
        cancelled = not isinstance(error, Exception)
        cause = None if cancelled else causes.of(error)
        outcome = AttemptOutcome.of(
            self._sending.request,
            duration_s,
            exception=type(error).__qualname__,
            cancelled=cancelled,
            transient=transient and (cause is None or cause.is_transient),
            cause=cause,
        )
        self._finish(outcome)
        self.is_what_became_of(error)
        span = self._sending.span
        if span is not None and outcome.failed:
            foreign_span.mask_recorded_exception(span, error)

    def is_what_became_of(self, response: object) -> None:
        """Remember a failed attempt by the response that the app gets of it, for `explain`."""
        if self._outcome is not None:
            remember_attempt(response, self._outcome, self._sending.span)

    def _finish(self, outcome: AttemptOutcome) -> None:
        observer = self._observer
        self._outcome = outcome
        if observer.is_collecting():  # a coroutine that nobody awaits any more
            observer.put_off(partial(observer.finish, outcome, self._sending, self._call))
        else:
            observer.finish(outcome, self._sending, self._call)


@fail_safe
def _envelope(body: bytes, headers: Mapping[bytes, bytes]) -> error_body.Envelope | None:
    found = (
        error_body.parse_error_body(body) if _BRACE.match(body) else None
    )  # whatever the headers say
    if found is not None or response_headers.CONTENT_ENCODING not in headers:
        return found
    encoding = headers[response_headers.CONTENT_ENCODING].decode("latin-1")
    plain = decode_body(body, encoding)
    return None if plain is None else error_body.parse_error_body(plain)
