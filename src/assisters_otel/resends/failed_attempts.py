"""The failed attempts that may still be resent, bounded in number and in time.

Each is stored under the keys by which its resend may look for it. A key is an origin and the
identity of the request. The origin is the `id` of the task or thread that sent the attempt. The
identity is a digest that equal requests have in common. It is keyed with a secret of the process,
so that a guessed body cannot be tested against it
(test_the_digest_of_one_process_says_nothing_in_another). Nothing else of a request is kept.

If there is a parent span or a unit of work, the attempt is stored a second time, with that as the
origin. There another task or thread finds it, so this entry is called *shared*. A newer failure
replaces an older one with the same key. A shared entry keeps what was known of the older one.

An attempt that a redirect led to is also stored under the identities of the requests before it.

The third rule of `tracker` is `FailedAttempts.take`. It finds an attempt here that was sent from
the same flow of control, which is one of these two:

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

import math
import os
import threading
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final

from assisters_otel.attempts import control_flow

if TYPE_CHECKING:
    import weakref
    from collections.abc import Iterator

    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.attempts.retry_chain import FailedAttempt, Key, RememberedAttempt

WINDOW_S: Final = 600.0
"""The seconds for which a failed attempt is remembered."""

MAX_ENTRIES: Final = 2048
"""The number of entries, two for an attempt with a parent span: about a megabyte. The oldest
entries are forgotten first."""


class FailedAttempts:
    """A bounded store of failed attempts, which finds the one that a request sends again.

    Attributes:
        lock: Held by the callers of the methods that store or mark an attempt. It is reentrant,
            because a signal handler may send a request meanwhile.
        by_key: The entries, the oldest first. An ordered dictionary finds its oldest entry in
            constant time. A plain one first skips the gaps that deleted entries have left.
    """

    def __init__(self, in_flight: set[weakref.ref[Attempt]]) -> None:
        """Start with no entries.

        Args:
            in_flight: The attempts in flight, which the tracker keeps.
        """
        self._in_flight = in_flight
        self.lock = threading.RLock()
        self.by_key: OrderedDict[Key, RememberedAttempt] = OrderedDict()
        self._keys_by_origin: Counter[int] = Counter()
        self._secret = os.urandom(16)

    def identity_of(self, attempt: Attempt) -> int | None:
        """Return the digest that equal requests have in common. Computed once for each attempt.

        It covers the unit of work, the method, the URL, and the Idempotency-Key. Without that
        header it covers the body. Sets `Attempt.identity` and `Attempt.is_bare`.

        Returns:
            The digest, or None if the body cannot be read without consuming it.
        """
        if attempt.identity is not None:
            return attempt.identity
        message = attempt.reader
        key = message.header("idempotency-key")
        content = key or message.body()
        if content is None:
            return None
        attempt.is_bare = not content
        # Python's `hash` of a string is keyed as well, and faster than `hashlib`. But a text and
        # its bytes have the same hash. So the kind of the content is part of the digest.
        kind = "key" if key else "body"
        address = attempt.unit, attempt.request.method, message.url()
        attempt.identity = hash((self._secret, *address, kind, content))
        return attempt.identity

    def has_origin(self, now: float, *origins: int) -> bool:
        """Return True if an attempt of any of these origins is remembered. Takes the lock itself.

        Args:
            now: The time on the same clock.
            origins: The origins.
        """
        with self.lock:
            self._expire(now)
        return not self._keys_by_origin.keys().isdisjoint(origins)

    def remember(self, key: Key, attempt: RememberedAttempt) -> None:
        """Store an attempt, in place of an older one with the same key."""
        self._expire(attempt.before.ended_s)
        self._forget(key)
        while len(self.by_key) >= MAX_ENTRIES:
            self._forget(next(iter(self.by_key)))
        self.by_key[key] = attempt
        self._keys_by_origin[key[0]] += 1

    def remember_shared(self, key: Key, attempt: RememberedAttempt) -> None:
        """Store an attempt under a parent span or unit of work, and mark it if it is a fan-out."""
        older = self.by_key.get(key)
        is_fan_out = older is not None and (
            older.is_fan_out
            or (
                older.before.ended_s > attempt.started_s
                and older.origin.owner is not attempt.origin.owner
            )
        )
        succeeded_s = -math.inf if older is None else older.succeeded_s
        shared = attempt._replace(is_shared=True, is_fan_out=is_fan_out, succeeded_s=succeeded_s)
        self.remember(key, shared)

    def mark_resent(self, key: Key, before: FailedAttempt | None) -> None:
        """Record that an attempt has its resend, if it is still the one with this key."""
        attempt = self.by_key.get(key)
        if attempt is None or attempt.before is not before:
            return
        if attempt.is_shared:
            self.by_key[key] = attempt._replace(is_resent=True)
        else:
            self._forget(key)

    def mark_succeeded(self, key: Key, now: float) -> None:
        """Record that a request equal to a remembered one has succeeded."""
        attempt = self.by_key.get(key)
        if attempt is not None:
            self.by_key[key] = attempt._replace(succeeded_s=now)

    def _expire(self, now: float) -> None:
        """Forget the attempts that ended more than `WINDOW_S` ago."""
        while self.by_key:
            key, attempt = next(iter(self.by_key.items()))
            if now - attempt.before.ended_s <= WINDOW_S:
                return
            self._forget(key)

    def _forget(self, key: Key) -> None:
        if self.by_key.pop(key, None) is None:
            return
        self._keys_by_origin[key[0]] -= 1
        if not self._keys_by_origin[key[0]]:
            del self._keys_by_origin[key[0]]

    # -- the third rule -----------------------------------------------------------------------

    def take(self, attempt: Attempt, now: float) -> FailedAttempt | None:
        """Return the failed attempt that *attempt* sends again, and mark it as resent.

        Args:
            attempt: The attempt that is about to be sent.
            now: The time on a steady clock.

        Returns:
            The failed attempt, or None if *attempt* is no resend.
        """
        origin = attempt.origin()
        if not origin.is_known:
            return None
        place = origin.place
        # The request is read only if this flow has failed: reading its body and URL is expensive.
        if not self.has_origin(now, origin.owner_id, place or 0):
            return None
        identity = self.identity_of(attempt)
        if identity is None:
            return None
        own_key, shared_key = (origin.owner_id, identity), (place or 0, identity)
        with self.lock:
            own, shared = self.by_key.get(own_key), self.by_key.get(shared_key)
            # The `id` of an owner is reused after its end, so its identity is compared.
            is_own = own is not None and own.origin.owner() is origin.owner()
            if own is not None and is_own and own.origin.whole == origin.whole:
                is_resend = self._is_resend_by_same(own, attempt, shared)
                self.mark_resent(own_key, own.before)
                self.mark_resent(shared_key, own.before)
                return own.before if is_resend else None
            if place is None or shared is None or not self._is_resend_by_other(shared, attempt):
                return None
            self.mark_resent(shared_key, shared.before)
            # The thread of a pool that sent it may send an equal request after this resend.
            self.mark_resent((id(shared.origin.owner()), identity), shared.before)
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
            if self.identity_of(other) == identity:
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
