"""Is an attempt a resend, and of what?

Three rules, in this order: inside one call of an SDK each further attempt is one; an
SDK may say so in a header; else it is the same request, sent again from the same flow
of control within ten minutes of having failed or been cancelled.

The third rule knows a request by what it says, so it may take a first for a resend. Two
things are held against it, unless a client's own retry code sends both attempts:

* What has neither body nor Idempotency-Key says too little: a server thread asks
  ``GET /v1/wallet/balance`` for one user after the other. It is a resend only under the
  same parent span, with the same Authorization, and no success of it in between.
* Equal requests are under way at the same time: a pool works through a list of them. Who
  meets an error there that no retry helps goes on with the next, and sends nothing again.
  So all attempts under way are known, and whose equals were seen once stays in company.

What is remembered of a failed attempt is a digest of its request, where it came from,
and what its resend will have to say: no body, no key, no message. Attempts under way are
referred to weakly.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import Counter, OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel.api import headers as response_headers
from assisters_otel.api.headers import retry_after_s
from assisters_otel.attempts import control_flow
from assisters_otel.attempts.retry_chain import Before, Hop
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import Resend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from assisters_otel.attempts.attempt import Sending
    from assisters_otel.attempts.retry_chain import Chain, Key
    from assisters_otel.outcomes import Outcome

WINDOW_S: Final = 600.0
"""How long a failed attempt is remembered."""

MAX_ENTRIES: Final = 2048
"""Entries that are remembered, two for an attempt with a parent span: about a megabyte. The
oldest go first."""

# What a clock and a timer may differ by; sent that much too soon, nobody has ignored anything.
_EARLY_S: Final = 0.01
_MAX_HOPS: Final = 256
# With more than that at once all are forgotten: what leaves no trace of its end must not pile up.
_MAX_UNDER_WAY: Final = 1024
_RETRY_COUNT: Final = "x-stainless-retry-count"
_MAX_DIGITS: Final = 6  # of that; what is longer is no count


class _Entry(NamedTuple):
    """An attempt that failed, and the flow of control that it came from.

    Attributes:
        before: What its resend will tell of it.
        owner: Gives the task or thread, or None if that is gone.
        whole: `Origin.whole`.
        parent_id: Of its parent, or 0.
        started_s: When it was sent, on a steady clock.
        send: The send of a client's own retry code that it was part of, or None.
        has_company: `Sending.has_company`.
        is_under_parent: Whether this is what another task or thread finds, by the parent.
        side_by_side: Whether an equal one under that parent failed beside it: a fan-out.
        is_taken: Whether it has its resend. What is on its way beside it is a fan-out still.
        succeeded_s: When an equal one under that parent succeeded last, on the same clock.
    """

    before: Before
    owner: Callable[[], object]
    whole: str | int | None
    parent_id: int
    started_s: float
    send: object | None = None
    has_company: bool = False
    is_under_parent: bool = False
    side_by_side: bool = False
    is_taken: bool = False
    succeeded_s: float = -math.inf


class Resends:
    """The attempts that failed, and were not sent again yet."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with none.

        Args:
            now: A steady clock, in seconds.
        """
        self._now = now
        self._secret = os.urandom(16)  # nobody can find a body for a digest
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        # By the task, thread or parent span (an id of either), and the request's digest.
        # Ordered: a plain dict finds its oldest entry only behind the gaps of all that are gone.
        self._failed: OrderedDict[Key, _Entry] = OrderedDict()
        self._places: Counter[int] = Counter()
        self._hops: OrderedDict[int, Hop] = OrderedDict()
        self._under_way: set[weakref.ref[Sending]] = set()

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._failed)

    # -- an attempt begins ------------------------------------------------------------------

    @fail_safe
    def begin(self, sending: Sending) -> Resend | None:
        """Say what an attempt that is about to be sent is a resend of.

        Returns:
            What is known of that, also set in `Sending.resend`; None for a first.
        """
        sending.started_s = now = self._now()
        if len(self._under_way) >= _MAX_UNDER_WAY:
            self._under_way.clear()
        self._under_way.add(weakref.ref(sending))
        chain = sending.chain
        if chain is None:
            resend = self._hop(sending, self._taken_hop()) if self._hops else None
            resend = resend or self._outside(sending, now)
        else:
            resend = self._inside(chain, sending, now)
        sending.resend = resend
        return resend

    def _inside(self, chain: Chain, sending: Sending, now: float) -> Resend | None:
        hop, chain.hop = chain.hop, None
        before, chain.before = chain.before, None
        resend = self._hop(sending, hop) if hop is not None else None
        if resend is None and not chain.sent:
            before = self._find(sending, now) if self._failed else None
            if before is not None:
                if before.call is not None:
                    chain.resend_of = before.call.span
                    chain.call = chain.call._replace(number=before.call.number + 1)
                resend = self._again(sending, before, now)
        elif resend is None:
            if before is None:
                resend = Resend(chain.number + 1)
            else:
                resend = self._again(sending, before, now)
                chain.wait_s += resend.delay_s or 0.0
            chain.retries += 1
            if chain.keys:
                with self._lock:
                    for key in chain.keys:
                        self._take(key, before)
                chain.keys = ()
        chain.sent += 1
        chain.number = resend.number if resend is not None else 0
        return resend

    def _outside(self, sending: Sending, now: float) -> Resend | None:
        said = sending.message.header(_RETRY_COUNT)
        told = int(said) if said and said.isdecimal() and len(said) <= _MAX_DIGITS else 0
        before = self._find(sending, now) if self._failed else None
        if before is None:
            return Resend(told) if told else None
        resend = self._again(sending, before, now)
        return resend if resend.number >= told else resend._replace(number=told)

    def _again(self, sending: Sending, before: Before, now: float) -> Resend:
        delay_s = max(now - before.ended_s, 0.0)
        wait_s = before.wait_s
        # Another key was neither asked to wait nor refused.
        is_same_key = (
            before.hopeless or wait_s is not None
        ) and before.authorization == self._authorization(sending)
        return Resend(
            before.number + 1,
            reason=before.reason,
            delay_s=delay_s,
            early=None if wait_s is None else is_same_key and delay_s < wait_s - _EARLY_S,
            futile=before.hopeless and is_same_key,
            span=before.span,
        )

    def _find(self, sending: Sending, now: float) -> Before | None:
        """Take the failed attempt of which this one is the resend by the third rule."""
        with self._lock:
            self._expire(now)
        origin = sending.origin()
        if not origin.is_known:
            return None
        place = origin.place
        places = (origin.owner_id, place or 0)
        if self._places.keys().isdisjoint(places):
            return None
        identity = self._identity(sending)
        if identity is None:
            return None
        mine, siblings = (places[0], identity), (places[1], identity)
        with self._lock:
            entry = self._failed.get(mine)
            is_mine = entry is not None and entry.owner() is origin.owner()
            if entry is not None and is_mine and entry.whole == origin.whole:
                is_again = self._is_again(entry, sending, self._failed.get(siblings))
                self._take(mine, entry.before)
                self._take(siblings, entry.before)
                return entry.before if is_again else None
            entry = self._failed.get(siblings) if place is not None else None
            if entry is None or not self._is_from_another(entry, sending):
                return None
            self._take(siblings, entry.before)
            # A pool's thread may send it yet again, after this resend.
            self._take((id(entry.owner()), identity), entry.before)
            return entry.before

    def _is_again(self, entry: _Entry, sending: Sending, under_parent: _Entry | None) -> bool:
        """Return True if the task or thread whose attempt has failed sends that again.

        Args:
            entry: The attempt that has failed.
            sending: The one that is about to be sent.
            under_parent: What is remembered of equal requests under the parent span, or None.
        """
        sending.has_company = entry.has_company
        if entry.send is not None and entry.send is control_flow.current_send():
            return True
        if sending.is_bare and not self._is_same_asker(entry, sending, under_parent):
            return False
        if not entry.before.hopeless:
            return True
        if not sending.has_company and next(self._company(sending), None) is not None:
            sending.has_company = True
        return not sending.has_company

    def _is_from_another(self, entry: _Entry, sending: Sending) -> bool:
        """Return True if a task or thread sends again what another one did that is over.

        Args:
            entry: What is remembered of equal requests under the parent span.
            sending: The one that is about to be sent.
        """
        if entry.side_by_side or entry.has_company or entry.is_taken:
            return False
        if not control_flow.is_over(entry.owner()):
            return False
        if sending.is_bare and not self._is_same_asker(entry, sending, entry):
            return False
        return next(self._company(sending), None) is None

    def _is_same_asker(self, entry: _Entry, sending: Sending, under_parent: _Entry | None) -> bool:
        """Return True if span and Authorization are the same, and nothing succeeded in between."""
        parent = sending.origin().parent
        return (
            parent is not None
            and entry.parent_id == parent.span_id
            and entry.before.authorization == self._authorization(sending)
            and (under_parent is None or under_parent.succeeded_s < entry.before.ended_s)
        )

    def _company(self, sending: Sending) -> Iterator[Sending]:
        """Yield the equal requests that are under way beside one."""
        identity = self._identity(sending)
        if identity is None:
            return
        for known in self._under_way.copy():  # other threads begin and end theirs
            other = known()
            if other is None or other is sending:
                continue
            if self._identity(other) == identity:
                yield other

    # -- an attempt has ended ---------------------------------------------------------------

    @fail_safe
    def answered(self, sending: Sending, *, is_open: bool) -> None:
        """Take note of an attempt that has not failed.

        Args:
            sending: Which.
            is_open: Whether its body is on its way, until `closed` or `failed`.
        """
        if not is_open:
            self.closed(sending)
        if self._failed:
            self._succeeded(sending)

    @fail_safe
    def closed(self, sending: Sending) -> None:
        """Take note of an attempt that is under way no more."""
        self._under_way.discard(weakref.ref(sending))

    def _succeeded(self, sending: Sending) -> None:
        """Take note of a success under the parent span of what has failed."""
        place = sending.origin().place
        if place is None or place not in self._places:
            return
        key = place, self._identity(sending) or 0
        with self._lock:
            entry = self._failed.get(key)
            if entry is not None:
                self._failed[key] = entry._replace(succeeded_s=self._now())

    @fail_safe
    def failed(self, sending: Sending, outcome: Outcome, unix_s: float) -> None:
        """Remember an attempt that has failed or was cancelled.

        Args:
            sending: Which.
            outcome: How.
            unix_s: When, by the clock on the wall.
        """
        self.closed(sending)
        now = self._now()
        chain = sending.chain
        hopeless = outcome.failed and not outcome.retryable
        before = Before(
            number=sending.resend.number if sending.resend is not None else 0,
            ended_s=now,
            reason=outcome.reason,
            span=sending.span.get_span_context() if sending.span is not None else None,
            wait_s=retry_after_s(outcome.headers.get(response_headers.RETRY_AFTER), unix_s),
            hopeless=hopeless,
            authorization=self._authorization(sending),
            call=chain.call if chain is not None else None,
        )
        identity = self._identity(sending)
        identities = sending.origins if identity is None else (identity, *sending.origins)
        origin = sending.origin()
        parent, place = origin.parent, origin.place
        if hopeless:
            for other in self._company(sending):
                sending.has_company = other.has_company = True
        entry = _Entry(
            before,
            origin.owner,
            origin.whole,
            parent.span_id if parent is not None else 0,
            sending.started_s,
            control_flow.current_send(),
            sending.has_company,
        )
        keys: list[Key] = []
        with self._lock:
            self._expire(now)
            for one in identities:
                keys.append((origin.owner_id, one))
                self._put(keys[-1], entry)
                if place is not None:
                    keys.append((place, one))
                    self._put(keys[-1], self._beside(entry, self._failed.get(keys[-1])))
        if chain is not None:
            chain.before = before
            chain.keys = tuple(keys)

    @fail_safe
    def redirected(self, sending: Sending, location: str) -> None:
        """Expect the hop that follows an answer with a redirect."""
        identity = self._identity(sending)
        owner = control_flow.owner()
        hop = Hop(
            weakref.ref(owner),
            hash(sending.message.redirected(location)),
            sending.resend.number if sending.resend is not None else 0,
            sending.origins if identity is None else (identity, *sending.origins),
        )
        if sending.chain is not None:
            sending.chain.hop = hop
            return
        with self._lock:
            while len(self._hops) >= _MAX_HOPS:
                del self._hops[next(iter(self._hops))]
            self._hops[id(owner)] = hop

    # -- what the two have in common --------------------------------------------------------

    def _taken_hop(self) -> Hop | None:
        owner = control_flow.owner()
        with self._lock:
            hop = self._hops.pop(id(owner), None)
        return hop if hop is not None and hop.owner() is owner else None

    @staticmethod
    def _hop(sending: Sending, hop: Hop | None) -> Resend | None:
        if hop is None or hop.url != hash(sending.message.url()):
            return None
        sending.origins = hop.identities
        return Resend(hop.number + 1, is_retry=False)

    @staticmethod
    def _beside(entry: _Entry, before: _Entry | None) -> _Entry:
        """Mark equal requests under one parent that failed side by side: that is a fan-out."""
        overlaps = before is not None and (
            before.side_by_side
            or (before.before.ended_s > entry.started_s and before.owner is not entry.owner)
        )
        succeeded_s = -math.inf if before is None else before.succeeded_s
        return entry._replace(is_under_parent=True, side_by_side=overlaps, succeeded_s=succeeded_s)

    def _put(self, key: Key, entry: _Entry) -> None:
        self._drop(key)
        while len(self._failed) >= MAX_ENTRIES:
            self._drop(next(iter(self._failed)))
        self._failed[key] = entry
        self._places[key[0]] += 1

    def _take(self, key: Key, before: Before | None) -> None:
        """Take note that an attempt has its resend, if it is still that one which is remembered."""
        entry = self._failed.get(key)
        if entry is None or entry.before is not before:
            return
        if entry.is_under_parent:
            self._failed[key] = entry._replace(is_taken=True)
        else:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        if self._failed.pop(key, None) is None:
            return
        self._places[key[0]] -= 1
        if not self._places[key[0]]:
            del self._places[key[0]]

    def _expire(self, now: float) -> None:
        while self._failed:
            key, entry = next(iter(self._failed.items()))
            if now - entry.before.ended_s <= WINDOW_S:
                return
            self._drop(key)

    def _identity(self, sending: Sending) -> int | None:
        """Make the digest by which the same request is known again; None if there is no way."""
        if sending.identity is not None:
            return sending.identity
        message = sending.message
        key = message.header("idempotency-key")
        what = key or message.body()
        if what is None:
            return None
        sending.is_bare = not what
        # Python's own is keyed too, and costs less than one from `hashlib`. To it a text and its
        # bytes are the same.
        told = "key" if key else "body", what
        where = sending.unit, sending.request.method, message.url()
        sending.identity = hash((self._secret, *where, *told))
        return sending.identity

    def _authorization(self, sending: Sending) -> bytes | None:
        value = sending.message.header("authorization")
        if not value:
            return None
        data = value.encode("utf-8", "surrogatepass")
        return blake2b(data, digest_size=16, key=self._secret).digest()
