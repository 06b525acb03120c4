"""Reports the rate limits of the last responses, for each server and each key.

A limit is a key's. So the last response of a key does not replace that of another one. Requests
without a fingerprint share one value: that of the Authorization header with the least remaining.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import ref as weakref

from opentelemetry.metrics import Observation

from assisters_otel.api.headers import RATELIMITS, header_integer
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks.caller_labels import LabelSets
from assisters_otel.sinks.label_values import server_labels
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider

    from assisters_otel.api.identity import Entries, Identity
    from assisters_otel.api.request import ApiRequest
    from assisters_otel.outcomes import AttemptOutcome
    from assisters_otel.sinks.caller_labels import CallerLabels

    _Place = tuple[str, int, Entries]  # the server, and the label of the key
    # By credential: the time, and the response's headers.
    _Kept = dict[int | None, tuple[float, Mapping[bytes, bytes]]]

FRESH_S: Final = 120.0
"""The seconds for which a rate limit's last value is reported. Later it may have changed."""

_MAX_PLACES: Final = 64
"""The servers and keys whose rate limits are kept. Beyond that all are forgotten: each has its next
value with its next response."""

_MAX_CREDENTIALS: Final = 64
"""The Authorization headers whose rate limits are kept under one label. Beyond that the oldest one
is forgotten: tokens that change by the hour leave one each."""

_USE_S: Final = 1.0
"""The seconds for which the label of a key is not looked for again, which costs 1.5 µs."""

_NOT_FOUND: Final[tuple[float, _Kept]] = (-math.inf, {})

_GAUGES: Final = (
    (metric_names.REQUESTS_LIMIT, "requests", "limit"),
    (metric_names.REQUESTS_REMAINING, "requests", "remaining"),
    (metric_names.TOKENS_LIMIT, "tokens", "limit"),
    (metric_names.TOKENS_REMAINING, "tokens", "remaining"),
)
_HEADERS: Final = frozenset(RATELIMITS[kind, what] for _, kind, what in _GAUGES)


class _GaugeCallbacks:
    """The callbacks of one provider's observable gauges.

    An instrument keeps the callbacks that it was created with. So a second `init` must be reached
    through them. The app's provider may also live longer than the library's instruments.
    """

    __slots__ = ("latest",)

    def __init__(self, meter: Meter) -> None:
        self.latest: Callable[[], RateLimits | None] = _no_limits
        for metric, kind, what in _GAUGES:
            observe = partial(self._observe, kind, what)
            meter.create_observable_gauge(metric.name, [observe], metric.unit, metric.description)

    def _observe(self, kind: str, what: str, _options: CallbackOptions) -> Iterable[Observation]:
        limits = self.latest()
        return () if limits is None else limits.observations(kind, what)


def _no_limits() -> None:
    """Return None: no `RateLimits` exists yet."""


_callbacks_by_provider: Final[WeakIdentityDict[_GaugeCallbacks]] = WeakIdentityDict()


def _callbacks(provider: MeterProvider, meter: Meter) -> _GaugeCallbacks:
    known = _callbacks_by_provider.get(provider)
    if known is None:
        known = _GaugeCallbacks(meter)
        _callbacks_by_provider.put_for_ever(provider, known)
    return known


class RateLimits:
    """The rate limits of the last responses."""

    def __init__(
        self,
        provider: MeterProvider,
        meter: Meter,
        callers: CallerLabels,
        now: Callable[[], float],
        collect: Callable[[], object],
    ) -> None:
        """Create the gauges, or take over those that the provider has.

        Args:
            provider: The provider of the gauges.
            meter: Its meter.
            callers: The labels of the keys.
            now: A steady clock, in seconds.
            collect: A function that is called before each collection. So an idle process, too,
                records the ends of collected bodies.
        """
        self._callers = callers
        self._now = now
        self._collect = collect
        self._sets = LabelSets(metric_names.REQUESTS_REMAINING.name)
        self._kept: dict[_Place, _Kept] = {}
        self._found: dict[tuple[str, int, int | None], tuple[float, _Kept]] = {}
        _callbacks(provider, meter).latest = weakref(self)

    def record(self, outcome: AttemptOutcome) -> None:
        """Keep the rate limits of a response, if it has any."""
        if _HEADERS.isdisjoint(outcome.headers):
            return
        request, credential, now = outcome.request, outcome.caller.credential, self._now()
        until_s, kept = self._found.get((request.address, request.port, credential), _NOT_FOUND)
        if now >= until_s:
            kept = self._find(request, outcome.caller, now)
        # The four integers are parsed at a collection, and not on each response.
        kept[credential] = now, outcome.headers
        if len(kept) > _MAX_CREDENTIALS:
            oldest = min(list(kept.items()), key=lambda item: item[1][0])
            kept.pop(oldest[0], None)

    def _find(self, request: ApiRequest, caller: Identity, now: float) -> _Kept:
        """Return the responses that are kept for a server and a key."""
        key: Entries = ()
        if caller.key_fingerprint is not None:
            key = self._callers.key(caller)
            key = self._sets.bounded((request.address, request.port), (), key)
        place = request.address, request.port, key
        if place not in self._kept and len(self._kept) >= _MAX_PLACES:
            self._forget_stale(now)
        kept = self._kept.setdefault(place, {})
        if len(self._found) >= _MAX_PLACES:
            self._found = {}
        self._found[request.address, request.port, caller.credential] = now + _USE_S, kept
        return kept

    def _forget_stale(self, now: float) -> None:
        """Forget the servers and keys without a fresh value, or all if there are too many."""
        fresh = {
            place: kept
            for place, kept in list(self._kept.items())
            if any(at_s >= now - FRESH_S for at_s, _ in list(kept.values()))
        }
        self._kept = fresh if len(fresh) < _MAX_PLACES else {}
        self._found = {}

    def observations(self, kind: str, what: str) -> list[Observation]:
        """Return the last values of a rate limit, for each server and key.

        Args:
            kind: ``requests`` or ``tokens``.
            what: ``limit`` or ``remaining``.
        """
        self._collect()
        oldest_s = self._now() - FRESH_S
        observations = []
        for (address, port, key), kept in list(self._kept.items()):
            fresh = [headers for at_s, headers in list(kept.values()) if at_s >= oldest_s]
            value = _value_of_least(fresh, kind, what)
            if value is not None:
                labels = server_labels(address, port) | dict(key)
                observations.append(Observation(value, labels))
        return observations


def _value_of_least(fresh: Iterable[Mapping[bytes, bytes]], kind: str, what: str) -> int | None:
    """Return a rate limit's value in the response that has the least remaining, or None."""
    found: list[tuple[float, int]] = []
    for headers in fresh:
        value = header_integer(headers.get(RATELIMITS[kind, what]))
        left = header_integer(headers.get(RATELIMITS[kind, "remaining"]))
        if value is not None:
            found.append((math.inf if left is None else left, value))
    return min(found)[1] if found else None
