"""Bounds what a caller's labels cost: the keys, the baggage's values, and the sets of labels.

A backend stores a time series for each set of labels. OpenTelemetry's SDK keeps 2,000 sets of an
instrument, and drops all labels of a further one: it could be that of the first revoked key. So
there are two bounds.

* `RecentValues` bounds the values of one label. A value that is not used for an hour gives its
  place to another one. Thus the tenants of the night do not hide those of the day.
* `LabelSets` bounds the sets of one instrument, which stay for the life of the process. Beyond the
  bound the labels that cost most and say least of an error are ``_OTHER``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from assisters_otel import logger
from assisters_otel.semconv import attributes as names
from assisters_otel.sinks.label_values import label_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.util.types import AttributeValue

    from assisters_otel.api.identity import Entries, Identity
    from assisters_otel.sinks.label_values import LabelsKey

MAX_KEYS: Final = 20
"""The number of keys that are labels at the same time."""

MAX_BAGGAGE_VALUES: Final = 50
"""The number of values of one entry of the baggage that are labels at the same time."""

FREE_AFTER_S: Final = 3600.0
"""The seconds after its last use for which a value keeps its place."""

MAX_SETS: Final = 1000
"""The label sets of one instrument. The SDK's own limit is 2,000."""

_BOUNDS: Final = (400, 800, 900)
"""The numbers of sets from which on the first, the second and the third group of labels is
``_OTHER``. So twenty keys with some errors each have their sets, however many tenants there are.
The rest up to `MAX_SETS` is for codes, types, statuses and endpoints."""


class RecentValues:
    """The values of one label that were used last."""

    def __init__(self, what: str, most: int, now: Callable[[], float]) -> None:
        """Start without a value.

        Args:
            what: The label's name, for the message.
            most: The number of values that are labels at the same time.
            now: A steady clock, in seconds.
        """
        self._what = what
        self._most = most
        self._now = now
        self._used_s: dict[str, float] = {}
        # `next` of an iterator needs no lock. A lock could be held while the process forks.
        self._places = iter(range(most))
        self._next_free_s = -math.inf
        self._has_warned = False

    def bounded(self, value: str) -> str:
        """Return *value* if it may be a label, else ``_OTHER``."""
        now = self._now()
        if value in self._used_s or self._takes_place(now):
            self._used_s[value] = now
            return value
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s %r is on metrics as %s, and so will be others: %d at most are labels of their "
                "own, each until an hour after its last use. Spans have them all.",
                self._what,
                value,
                names.OTHER,
                self._most,
            )
        return names.OTHER

    def _takes_place(self, now: float) -> bool:
        """Return True if there is a place for a further value, and take it."""
        if next(self._places, None) is not None:
            return True
        if now < self._next_free_s:  # the values need not be searched
            return False
        oldest, used_s = min(list(self._used_s.items()), key=lambda item: item[1])
        self._next_free_s = used_s + FREE_AFTER_S
        # `pop` gives the place to one thread alone.
        return now >= self._next_free_s and self._used_s.pop(oldest, None) is not None


class CallerLabels:
    """The labels of callers in this process: their keys, and the entries of the baggage."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Start without a caller.

        Args:
            now: A steady clock, in seconds.
        """
        self._now = now
        self._keys = RecentValues(names.API_KEY_FINGERPRINT, MAX_KEYS, now)
        self._values: dict[str, RecentValues] = {}

    def key(self, caller: Identity) -> Entries:
        """Return the label of a caller's key: one, or none."""
        fingerprint = caller.key_fingerprint
        if fingerprint is None:
            return ()
        return ((names.API_KEY_FINGERPRINT, self._keys.bounded(fingerprint)),)

    def baggage(self, caller: Identity) -> Entries:
        """Return the labels of a caller's baggage."""
        return tuple((name, self._of(name).bounded(value)) for name, value in caller.baggage)

    def _of(self, name: str) -> RecentValues:
        known = self._values.get(name)
        if known is None:
            made = RecentValues(name, MAX_BAGGAGE_VALUES, self._now)
            known = self._values.setdefault(name, made)
        return known


class LabelSets:
    """The label sets of one instrument in this process."""

    def __init__(self, instrument: str, fixed_names: tuple[str, ...] = ()) -> None:
        """Start without a set.

        Args:
            instrument: The instrument's name, for the message.
            fixed_names: The names of the labels that always keep their values, but the endpoint's.
        """
        self._instrument = instrument
        self._names = fixed_names
        self._known: set[tuple[object, ...]] = set()
        self._whole: dict[tuple[object, ...], Mapping[str, AttributeValue]] = {}
        self._has_warned = False

    def labels(
        self, endpoint: LabelsKey, values: tuple[AttributeValue | None, ...], *groups: Entries
    ) -> Mapping[str, AttributeValue]:
        """Return a set of labels, with ``_OTHER`` for those of *groups* that are beyond the bound.

        Args:
            endpoint: The values of the endpoint's labels.
            values: The values of the other labels that always keep them.
            groups: See `bounded`.
        """
        said = endpoint, values, groups
        whole = self._whole.get(said)
        if whole is not None:
            return whole
        bounded = self.bounded((endpoint, values), *groups)
        others = (*self._names, *(name for name, _ in bounded))
        found = label_set(endpoint, others, *values, *(value for _, value in bounded))
        if bounded == _labels(groups) and len(self._whole) < MAX_SETS:
            self._whole[said] = found
        return found

    def bounded(self, fixed: object, *groups: Entries) -> Entries:
        """Return the labels of *groups*, with ``_OTHER`` for those that are beyond the bound.

        Args:
            fixed: The values of the labels that always keep them.
            groups: The other labels: the baggage's first, then the key's, then the model's. A group
                loses its values before those after it.

        Returns:
            The labels of all groups, in their order.
        """
        whole = labels = _labels(groups)
        for at, bound in enumerate((*_BOUNDS[: len(groups)], MAX_SETS), 1):
            if (fixed, labels) in self._known:
                break
            if len(self._known) < bound:
                self._known.add((fixed, labels))
                break
            labels = _labels((*map(_others, groups[:at]), *groups[at:]))
        if labels != whole:
            self._warn()
        return labels

    def _warn(self) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        logger.warning(
            "%s has %d sets of labels that name an entry of the baggage, a key or a model: further "
            "ones have %s in place of the baggage, then of the key, then of the model. Spans have "
            "them all.",
            self._instrument,
            _BOUNDS[0],
            names.OTHER,
        )


def _labels(groups: Iterable[Entries]) -> Entries:
    return tuple(label for group in groups for label in group)


def _others(group: Entries) -> Entries:
    return tuple((name, names.OTHER) for name, _ in group)
