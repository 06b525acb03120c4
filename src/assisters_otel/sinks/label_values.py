"""Bounds the values that a metric's label may have: documented ones, and some further ones.

A backend stores a time series for each set of labels. So a value from the wire becomes a label only
if it is documented, or is among the first few others that are well-formed. Any other is ``_OTHER``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel import logger
from assisters_otel.api.patterns import pattern
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable


MAX_EXTRA_VALUES: Final = 20
"""The numbers of undocumented codes, types and exception names that a process may add as labels."""

MAX_MODELS: Final = 50
"""The number of models that a process may add as labels. The API has no list of the known ones."""

_WELL_FORMED: Final = pattern(r"[a-z][a-z0-9_]{0,63}\Z")
_EXCEPTION_NAME: Final = pattern(r"[A-Za-z_][A-Za-z0-9_.<>]{0,99}\Z")
_MODEL: Final = pattern(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}\Z")
_STATUSES: Final = frozenset(map(str, range(100, 600)))
# Source: semantic conventions, http.request.method.
_METHODS: Final = frozenset(
    "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY".split()  # noqa: SIM905 - a list of words
)


class LabelValues:
    """The values of one label: the documented ones, and the first few further ones."""

    def __init__(
        self,
        what: str,
        known: Iterable[str],
        form: re.Pattern[str],
        further: int = MAX_EXTRA_VALUES,
    ) -> None:
        self._what = what
        self._known = frozenset(known)
        self._form = form
        self._further: set[str] = set()
        # `next` of an iterator needs no lock. A lock could be held while the process forks.
        self._max = further
        self._slots = iter(range(further))
        self._has_warned = False

    def bounded(self, value: str) -> str:
        """Return *value* if it may be a label, else ``_OTHER``."""
        if value in self._known or value in self._further:
            return value
        if self._form.match(value) and next(self._slots, None) is not None:
            self._further.add(value)
            return value
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s %r is on metrics as %s, and so will be others: "
                "%d undocumented ones at most are labels of their own. Spans have them all.",
                self._what,
                value,
                names.OTHER,
                self._max,
            )
        return names.OTHER

    def __contains__(self, value: str) -> bool:
        """Return True if *value* is a label already."""
        return value in self._known or value in self._further
