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
"""

from __future__ import annotations

import math
import os
import threading
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final

from assisters_otel.records import Record

if TYPE_CHECKING:
    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.attempts.control_flow import Origin
    from assisters_otel.attempts.retry_chain import FailedAttempt, Key

WINDOW_S: Final = 600.0
"""The seconds for which a failed attempt is remembered."""

MAX_ENTRIES: Final = 2048
"""The number of entries, two for an attempt with a parent span: about a megabyte. The oldest
entries are forgotten first."""


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


class FailedAttempts:
    """A bounded store of failed attempts.

    Attributes:
        lock: Held by the callers of the methods that store or mark an attempt. It is reentrant,
            because a signal handler may send a request meanwhile.
        by_key: The entries, the oldest first. An ordered dictionary finds its oldest entry in
            constant time. A plain one first skips the gaps that deleted entries have left.
    """

    def __init__(self) -> None:
        """Start with no entries."""
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
