"""The third rule of `tracker`: the same request, sent again from the same flow of control.

A flow of control is one of these two:

* The same task or thread, in the same unit of work, else in the same trace. The trace matters
  because a thread of a pool serves one user after the other.
* Another task or thread under the same parent span, or in the same unit of work, if the earlier one
  has ended. `asyncio.wait_for` and `to_thread` make a new one for each attempt.

Two requests count as the same if their contents are equal. So this rule may take a first attempt
for a resend, and a wrong mark of a futile retry sends its reader searching for a fault that does
not exist. Two things are therefore held against a match. Neither holds between two attempts of one
send of the client's own retry code, such as urllib3's `Retry`: they are resends by definition.

* *Bare requests.* A request without body and Idempotency-Key says little: a server's thread asks
  ``GET /v1/wallet/balance`` for each user. It is a resend only under the same parent span, with the
  same Authorization, and if no equal request has succeeded in between.
* *Company.* Equal requests that are in flight at the same time are often a pool that works through
  a list. A worker that gets an error against which no retry helps goes on with the next item. So
  such an error has no resend if equal requests of others were in flight beside the attempt or its
  predecessors (`Attempt.has_company`). After an error that a retry helps, it has one, because fifty
  tasks that each retry through an outage are fifty retry loops.

tests/test_resend.py and tests/clients/test_equal_requests.py try these cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assisters_otel.attempts import control_flow

if TYPE_CHECKING:
    import weakref
    from collections.abc import Iterator

    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.attempts.retry_chain import FailedAttempt
    from assisters_otel.resends.failed_attempts import FailedAttempts, RememberedAttempt


class FlowMatcher:
    """Matches attempts with failed ones of the same flow of control."""

    def __init__(self, failed: FailedAttempts, in_flight: set[weakref.ref[Attempt]]) -> None:
        """Match with what is in *failed* and *in_flight*, which the tracker fills.

        Args:
            failed: The failed attempts without a resend.
            in_flight: The attempts in flight.
        """
        self._failed = failed
        self._in_flight = in_flight

    def take_failed(self, attempt: Attempt, now: float) -> FailedAttempt | None:
        """Return the failed attempt that *attempt* sends again, and mark it as resent.

        Args:
            attempt: The attempt that is about to be sent.
            now: The time on a steady clock.

        Returns:
            The failed attempt, or None if *attempt* is no resend.
        """
        failed, origin = self._failed, attempt.origin()
        if not origin.is_known:
            return None
        place = origin.place
        # The request is read only if this flow has failed: reading its body and URL is expensive.
        if not failed.has_origin(now, origin.owner_id, place or 0):
            return None
        identity = failed.identity_of(attempt)
        if identity is None:
            return None
        own_key, shared_key = (origin.owner_id, identity), (place or 0, identity)
        with failed.lock:
            own, shared = failed.by_key.get(own_key), failed.by_key.get(shared_key)
            # The `id` of an owner is reused after its end, so its identity is compared.
            is_own = own is not None and own.origin.owner() is origin.owner()
            if own is not None and is_own and own.origin.whole == origin.whole:
                is_resend = self._is_resend_by_same(own, attempt, shared)
                failed.mark_resent(own_key, own.before)
                failed.mark_resent(shared_key, own.before)
                return own.before if is_resend else None
            if place is None or shared is None or not self._is_resend_by_other(shared, attempt):
                return None
            failed.mark_resent(shared_key, shared.before)
            # The thread of a pool that sent it may send an equal request after this resend.
            failed.mark_resent((id(shared.origin.owner()), identity), shared.before)
            return shared.before

    def equal_in_flight(self, attempt: Attempt) -> Iterator[Attempt]:
        """Yield the attempts with an equal request that are in flight beside *attempt*.

        Args:
            attempt: The attempt, whose `Attempt.identity` is set; without one there are none.
        """
        identity = attempt.identity
        if identity is None:
            return
        for reference in self._in_flight.copy():  # other threads start and end attempts meanwhile
            other = reference()
            if other is None or other is attempt:
                continue
            if self._failed.identity_of(other) == identity:
                yield other

    def _is_resend_by_same(
        self, failed: RememberedAttempt, attempt: Attempt, shared: RememberedAttempt | None
    ) -> bool:
        """Return True if the task or thread of a failed attempt sends it again.

        Args:
            failed: The failed attempt.
            attempt: The attempt that is about to be sent.
            shared: The entry of equal requests under the parent span, or None.
        """
        attempt.has_company = failed.has_company
        if failed.send is not None and failed.send is control_flow.current_send():
            return True
        if attempt.is_bare and not self._is_same_asker(failed, attempt, shared):
            return False
        if not failed.before.is_permanent:
            return True
        if not attempt.has_company and next(self.equal_in_flight(attempt), None) is not None:
            attempt.has_company = True
        return not attempt.has_company

    def _is_resend_by_other(self, shared: RememberedAttempt, attempt: Attempt) -> bool:
        """Return True if another task or thread sends again what an ended one has sent.

        Args:
            shared: The entry of equal requests under the parent span.
            attempt: The attempt that is about to be sent.
        """
        if shared.is_fan_out or shared.has_company or shared.is_resent:
            return False
        if not control_flow.has_ended(shared.origin.owner()):
            return False
        if attempt.is_bare and not self._is_same_asker(shared, attempt, shared):
            return False
        return next(self.equal_in_flight(attempt), None) is None

    def _is_same_asker(
        self, failed: RememberedAttempt, attempt: Attempt, shared: RememberedAttempt | None
    ) -> bool:
        """Return True if a bare request has enough in common with a failed one to be its resend."""
        parent, before = attempt.origin().parent, failed.origin.parent
        return (
            parent is not None
            and before is not None
            and before.span_id == parent.span_id
            and failed.before.credential == attempt.caller.credential
            and (shared is None or shared.succeeded_s < failed.before.ended_s)
        )
