"""Decides whether an attempt is a resend, and of which earlier attempt.

`ResendTracker.started` is called before each send and returns a `Resend`, or None for a first
attempt. `answered`, `failed`, `redirected` and `closed` record how the attempt went.

Rules, in this order.

1. Inside one call of an SDK, each attempt after the first is a resend of the one before it. For the
   first attempt the third rule decides. If that is a resend, the whole call repeats a failed one.
2. Outside a call, an SDK may send the number of the resend in a header. It does not identify the
   previous attempt. Inside a call the header is not read: `openai` copies it to a redirect's hop.
3. The same request was sent before from the same flow of control, failed or was cancelled, and
   ended less than ten minutes ago. See `failed_attempts`. Its number and the header's are compared,
   and the higher one counts: a loop around an SDK goes on counting, while the header starts at 0
   again.

A redirect's hop is a resend as well, but no retry. It is recognised by its URL: the next request of
the same call, or else of the same task or thread, goes where the redirect leads.

How it works. An attempt in flight is held weakly, in `_in_flight`, from `started` until its body
has ended. A failed attempt is kept in `FailedAttempts` until it has its resend, is expired, or is
pushed out by newer ones. `RetryChain` keeps the previous attempt of a call.

What would break it.

* A reference to a request in what is remembered: it would keep the body and the key in memory.
  Digests alone are kept (test_no_body_and_no_key_is_held).
* Reading a request while nothing has failed: the URL, the headers and the body cost more than the
  rest (test_where_nothing_has_failed_nothing_is_asked).
* A lock that is not reentrant: a signal handler may send a request while its thread is in here.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from assisters_otel.api import headers as response_headers
from assisters_otel.api.headers import retry_after_s
from assisters_otel.attempts import control_flow
from assisters_otel.attempts.retry_chain import FailedAttempt, PendingRedirect, RememberedAttempt
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import Resend
from assisters_otel.resends.failed_attempts import FailedAttempts

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.attempts.retry_chain import Key, RetryChain
    from assisters_otel.outcomes import AttemptOutcome

_EARLY_S: Final = 0.01
"""The seconds by which a clock and a timer may differ. A send that much too soon is not early."""

_MAX_PENDING_REDIRECTS: Final = 256
"""The redirects that may wait for their hop. One that a client does not follow waits for ever."""

_MAX_IN_FLIGHT: Final = 1024
"""The attempts in flight that are known. Beyond that all are forgotten, because some of them may
have ended without a trace."""

_RETRY_COUNT: Final = "x-stainless-retry-count"
_MAX_DIGITS: Final = 6
"""The digits of a retry count. A longer value is no count."""


class ResendTracker:
    """Recognises resends among the attempts of one process."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Start with no attempts.

        Args:
            now: A steady clock, in seconds.
        """
        self._now = now
        self._in_flight: set[weakref.ref[Attempt]] = set()
        self._failed = FailedAttempts(self._in_flight)
        # By the `id` of the task or thread. The lock of the failed attempts guards it as well.
        self._pending_redirects: OrderedDict[int, PendingRedirect] = OrderedDict()

    # -- an attempt starts ------------------------------------------------------------------

    @fail_safe
    def started(self, attempt: Attempt) -> Resend | None:
        """Return what an attempt that is about to be sent is a resend of, or None for a first.

        The result is also set as `Attempt.resend`.
        """
        attempt.started_s = now = self._now()
        if len(self._in_flight) >= _MAX_IN_FLIGHT:
            self._in_flight.clear()
        self._in_flight.add(weakref.ref(attempt))
        call = attempt.call
        if call is None:
            resend = None
            if self._pending_redirects:
                resend = _after_redirect(attempt, self._take_redirect())
            resend = resend or self._outside_calls(attempt, now)
        else:
            resend = self._in_call(call.chain, attempt, now)
        attempt.resend = resend
        return resend

    def _in_call(self, chain: RetryChain, attempt: Attempt, now: float) -> Resend | None:
        """Apply the first rule, and count the attempt in its call."""
        hop, chain.hop = chain.hop, None
        before, chain.last_failed = chain.last_failed, None
        resend = _after_redirect(attempt, hop) if hop is not None else None
        if resend is None and not chain.has_sent:
            before = self._failed.take(attempt, now) if self._failed.by_key else None
            if before is not None:
                if before.call is not None:
                    chain.resend_of = before.call.span
                    chain.call = chain.call._replace(number=before.call.number + 1)
                resend = self._resend_of(before, attempt, now)
        elif resend is None:
            if before is None:
                resend = Resend(chain.number + 1)
            else:
                resend = self._resend_of(before, attempt, now)
                chain.wait_s += resend.delay_s or 0.0
            chain.retries += 1
            if chain.keys:
                with self._failed.lock:
                    for key in chain.keys:
                        self._failed.mark_resent(key, before)
                chain.keys = ()
        chain.has_sent = True
        chain.number = resend.number if resend is not None else 0
        return resend

    def _outside_calls(self, attempt: Attempt, now: float) -> Resend | None:
        """Apply the second and the third rule. The higher number counts."""
        header = attempt.reader.header(_RETRY_COUNT)
        count = 0
        if header and header.isdecimal() and len(header) <= _MAX_DIGITS:
            count = int(header)
        before = self._failed.take(attempt, now) if self._failed.by_key else None
        if before is None:
            return Resend(count) if count else None
        resend = self._resend_of(before, attempt, now)
        return resend if resend.number >= count else resend._replace(number=count)

    def _resend_of(self, before: FailedAttempt, attempt: Attempt, now: float) -> Resend:
        """Return the record of a resend whose previous attempt is known."""
        delay_s = max(now - before.ended_s, 0.0)
        wait_s = before.wait_s
        # The API has neither refused another key nor asked it to wait.
        is_same_key = before.credential == attempt.caller.credential
        return Resend(
            before.number + 1,
            reason=before.reason,
            delay_s=delay_s,
            early=None if wait_s is None else is_same_key and delay_s < wait_s - _EARLY_S,
            futile=before.is_permanent and is_same_key,
            previous_span=before.span,
        )

    def _take_redirect(self) -> PendingRedirect | None:
        """Remove and return the redirect that the current task or thread was answered with."""
        owner = control_flow.current_task_or_thread()
        with self._failed.lock:
            hop = self._pending_redirects.pop(id(owner), None)
        return hop if hop is not None and hop.owner() is owner else None

    # -- an attempt has ended ---------------------------------------------------------------

    @fail_safe
    def answered(self, attempt: Attempt, *, is_open: bool) -> None:
        """Record that an attempt has a response and has not failed.

        Args:
            attempt: The attempt.
            is_open: True if its body is still being read. Then `closed` or `failed` will follow.
        """
        if not is_open:
            self._in_flight.discard(weakref.ref(attempt))
        if self._failed.by_key:
            self._succeeded(attempt)

    @fail_safe
    def closed(self, attempt: Attempt) -> None:
        """Record that an attempt is no longer in flight."""
        self._in_flight.discard(weakref.ref(attempt))

    def _succeeded(self, attempt: Attempt) -> None:
        place, now = attempt.origin().place, self._now()
        if place is None or not self._failed.has_origin(now, place):
            return
        key = place, self._failed.identity_of(attempt) or 0
        with self._failed.lock:
            self._failed.mark_succeeded(key, now)

    @fail_safe
    def failed(self, attempt: Attempt, outcome: AttemptOutcome, unix_s: float) -> None:
        """Remember an attempt that has failed or was cancelled.

        Args:
            attempt: The attempt.
            outcome: How it ended.
            unix_s: The time of its end in Unix seconds, for a Retry-After that is a date.
        """
        self.closed(attempt)
        now = self._now()
        chain = None if attempt.call is None else attempt.call.chain
        is_permanent = outcome.failed and not outcome.retryable
        before = FailedAttempt(
            number=attempt.resend.number if attempt.resend is not None else 0,
            ended_s=now,
            reason=outcome.retry_reason,
            span=attempt.span.get_span_context() if attempt.span is not None else None,
            wait_s=retry_after_s(outcome.headers.get(response_headers.RETRY_AFTER), unix_s),
            is_permanent=is_permanent,
            credential=attempt.caller.credential,
            call=chain.call if chain is not None else None,
        )
        identities = self._identities(attempt)
        origin = attempt.origin()
        if is_permanent:
            for other in self._failed.equal_in_flight(attempt):
                attempt.has_company = other.has_company = True
        send = control_flow.current_send()
        remembered = RememberedAttempt(before, origin, attempt.started_s, send, attempt.has_company)
        keys: list[Key] = []
        with self._failed.lock:
            for identity in identities:
                keys.append((origin.owner_id, identity))
                self._failed.remember(keys[-1], remembered)
                if origin.place is not None:
                    keys.append((origin.place, identity))
                    self._failed.remember_shared(keys[-1], remembered)
        if chain is not None:
            chain.last_failed = before
            chain.keys = tuple(keys)

    @fail_safe
    def redirected(self, attempt: Attempt, location: str) -> None:
        """Remember a redirect, so that the request that follows it is recognised as its hop.

        Args:
            attempt: The attempt that was answered with it.
            location: The Location header.
        """
        owner = control_flow.current_task_or_thread()
        hop = PendingRedirect(
            weakref.ref(owner),
            hash(attempt.reader.redirect_target(location)),
            attempt.resend.number if attempt.resend is not None else 0,
            self._identities(attempt),
        )
        if attempt.call is not None:
            attempt.call.chain.hop = hop
            return
        with self._failed.lock:
            while len(self._pending_redirects) >= _MAX_PENDING_REDIRECTS:
                del self._pending_redirects[next(iter(self._pending_redirects))]
            self._pending_redirects[id(owner)] = hop

    def _identities(self, attempt: Attempt) -> tuple[int, ...]:
        """Return the identity of a request and of those that were redirected to it."""
        identity = self._failed.identity_of(attempt)
        return attempt.origins if identity is None else (identity, *attempt.origins)


def _after_redirect(attempt: Attempt, hop: PendingRedirect | None) -> Resend | None:
    """Return a resend if *attempt* goes where a redirect leads, and set `Attempt.origins`."""
    if hop is None or hop.url != hash(attempt.reader.url()):
        return None
    attempt.origins = hop.identities
    return Resend(hop.number + 1, is_retry=False)
