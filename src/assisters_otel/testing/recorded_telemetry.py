"""The spans, metric points and log lines that a recording has got."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from assisters_otel import logger
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack
    from logging import LogRecord

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import ReadableSpan

    from assisters_otel.config import Config

_METHODS: Final = ("http.request.method", "http.method")
"""The attributes that every HTTP span has one of, under the new conventions and the old."""

_OF_API: Final = (names.REQUEST_ID, names.ERROR_RETRYABLE, "url.template")
"""The attributes that an attempt's span has one of, and no other HTTP span has."""


@dataclass(frozen=True)
class Point:
    """One point of a metric.

    Attributes:
        name: The metric's.
        attributes: The labels.
        value: Of a counter or gauge; None for a histogram.
        count: Of a histogram; None for the others.
        sum: As *count*, in the metric's unit.
    """

    name: str
    attributes: Mapping[str, Any]
    value: float | None
    count: int | None
    sum: float | None


class Recorded:
    """The telemetry that a recording has got so far, or in all after its end."""

    def __init__(self, config: Config, collect: Callable[[], object]) -> None:
        """Create an empty recording, for `recorded`.

        Args:
            config: The hosts that it was given, among the API's own.
            collect: Runs the steps that were put off inside the garbage collector.
        """
        self.config = config
        self._collect = collect
        self._lock = threading.Lock()
        self._spans: list[ReadableSpan] = []
        self._lines: list[LogRecord] = []
        self._reader = InMemoryMetricReader()
        self._points: tuple[Point, ...] | None = None

    def __repr__(self) -> str:
        return f"<Recorded {len(self.spans)} spans, {len(self.logs)} log lines>"

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """Every span that has ended, the earliest start first.

        The app's own are among them if the global tracer provider is one of the SDK's.
        """
        self._collect()
        with self._lock:
            return tuple(sorted(self._spans, key=lambda span: span.start_time or 0))

    @property
    def attempts(self) -> tuple[ReadableSpan, ...]:
        """The spans of HTTP attempts at the API."""
        return tuple(span for span in self.spans if _is_attempt(span.attributes or {}))

    @property
    def calls(self) -> tuple[ReadableSpan, ...]:
        """The spans of an SDK's calls, each of one attempt or more."""
        return tuple(span for span in self.spans if names.CALL_OUTCOME in (span.attributes or {}))

    @property
    def streams(self) -> tuple[ReadableSpan, ...]:
        """The spans that say how an event stream ended: an SDK's call, or one of its own."""
        return tuple(span for span in self.spans if names.STREAM_OUTCOME in (span.attributes or {}))

    @property
    def logs(self) -> tuple[LogRecord, ...]:
        """The lines of the logger ``assisters_otel`` from WARNING on, also if it is silenced."""
        return tuple(self._lines)

    def points(self, name: str | None = None) -> tuple[Point, ...]:
        """Return the points of the metric *name*, or of all."""
        found = self._points if self._points is not None else _points(self._reader)
        return tuple(point for point in found if name in (None, point.name))

    def add(self, span: ReadableSpan) -> None:
        """Add a span that has ended."""
        with self._lock:
            self._spans.append(span)

    def open(self, meters: MeterProvider, logs: ExitStack) -> None:
        """Start to record metric points and log lines, the latter until *logs* is closed."""
        meters.add_metric_reader(self._reader)
        self._lines = logs.enter_context(logger.captured())

    def close(self, meters: MeterProvider) -> None:
        """Keep the metric points of this moment, and record no more."""
        self._points = _points(self._reader)
        meters.remove_metric_reader(self._reader)


def _is_attempt(attributes: Mapping[str, object]) -> bool:
    is_http = any(name in attributes for name in _METHODS)
    is_call = names.CALL_OUTCOME in attributes or names.STREAM_OUTCOME in attributes
    return is_http and not is_call and any(name in attributes for name in _OF_API)


def _points(reader: InMemoryMetricReader) -> tuple[Point, ...]:
    data = reader.get_metrics_data()
    return tuple(
        Point(metric.name, dict(point.attributes or {}), point.value, None, None)
        if isinstance(point, NumberDataPoint)
        else Point(metric.name, dict(point.attributes or {}), None, point.count, point.sum)
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    )
