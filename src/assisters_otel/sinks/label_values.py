"""Bounds the values that a metric's label may have: documented ones, and some further ones.

A backend stores a time series for each set of labels. So a value from the wire becomes a label only
if it is documented, or is among the first few others that are well-formed. Any other is ``_OTHER``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

from assisters_otel import catalog, logger
from assisters_otel.api.patterns import pattern
from assisters_otel.records import Record
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import gen_ai

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Mapping

    from opentelemetry.util.types import AttributeValue

    from assisters_otel.outcomes import AttemptOutcome

    LabelsKey = tuple[str, int, str | None]  # the host's name, the port, the template

MAX_EXTRA_VALUES: Final = 20
"""The numbers of undocumented codes, types and exception names that a process may add as labels."""

MAX_MODELS: Final = 50
"""The number of models that a process may add as labels. The API has no list of the known ones."""

# The label sets that are cached, since creating one costs more than finding it.
_MAX_SETS: Final = 512
_WELL_FORMED: Final = pattern(r"[a-z][a-z0-9_]{0,63}\Z")
_EXCEPTION_NAME: Final = pattern(r"[A-Za-z_][A-Za-z0-9_.<>]{0,99}\Z")
_MODEL: Final = pattern(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}\Z")
_STATUSES: Final = frozenset(map(str, range(100, 600)))
# Source: semantic conventions, http.request.method.
METHODS: Final = frozenset(
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


class OutcomeLabels(Record):
    """The labels that describe outcomes. Attempts and calls share them, and so their bounds.

    Attributes:
        code: The codes.
        type: The types of errors.
        exception: The names of exceptions, which are types of errors as well.
        model: The models, asked for or answered with.
    """

    code: LabelValues
    type: LabelValues
    exception: LabelValues
    model: LabelValues


def outcome_labels() -> OutcomeLabels:
    """Return labels that have their documented values alone."""
    types = (names.TRUNCATED, names.OTHER, *(t.type for t in catalog.TYPES))
    return OutcomeLabels(
        LabelValues(names.ERROR_CODE, (e.code for e in catalog.ERRORS), _WELL_FORMED),
        LabelValues(ERROR_TYPE, types, _WELL_FORMED),
        LabelValues(ERROR_TYPE, (names.CANCELLED,), _EXCEPTION_NAME),
        LabelValues(gen_ai.REQUEST_MODEL, (), _MODEL, MAX_MODELS),
    )


def error_labels(
    labels: OutcomeLabels, error_type: str, code: str | None, last: AttemptOutcome | None
) -> tuple[str, str | None]:
    """Return the labels of a failure: its type of error, and its code or None.

    Args:
        labels: The labels.
        error_type: The type of error: a documented one, a status or the name of an exception.
        code: The code, or None.
        last: The outcome of the attempt that both come from, or None without one.
    """
    if last is None or not last.failed or last.error_type == last.exception:
        error_type = labels.exception.bounded(error_type)
    elif error_type not in _STATUSES:
        error_type = labels.type.bounded(error_type)
    return error_type, None if code is None else labels.code.bounded(code)


def reason_label(labels: OutcomeLabels, value: str) -> str:
    """Return the label of the reason of a retry: the one that the previous attempt was counted as.

    Args:
        labels: The labels.
        value: The previous attempt's code, type of error or exception.
    """
    known = (_STATUSES, labels.code, labels.type, labels.exception)
    return value if any(value in values for values in known) else names.OTHER


@lru_cache(_MAX_SETS)
def label_set(
    labels_key: LabelsKey, others: tuple[str, ...], *values: AttributeValue | None
) -> Mapping[str, AttributeValue]:
    """Return a set of labels: those of the endpoint, and those of *others* that have a value."""
    address, port, template = labels_key
    named = {names.URL_TEMPLATE: template, **dict(zip(others, values, strict=True))}
    known = {name: value for name, value in named.items() if value is not None}
    return server_labels(address, port) | known


def server_labels(address: str, port: int) -> dict[str, AttributeValue]:
    """Return the labels of a server."""
    return {SERVER_ADDRESS: address, SERVER_PORT: port}
