"""The demo's metrics for people: each number, and beside it the thing that it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics.export import HistogramDataPoint, NumberDataPoint
from rich.text import Text

from assisters_otel.cli import output
from assisters_otel.cli.span_text import call_outcome, error_name, retry_faults
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import gen_ai
from assisters_otel.semconv import metrics as metric_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.sdk.metrics.export import Metric

    Attributes = Mapping[str, object]


def listing(metrics: Iterable[Metric]) -> output.Listing:
    """Return what the metrics count, one row per metric."""
    rows = [output.Row((Text(metric.name),), tuple(_lines(metric))) for metric in metrics]
    return output.Listing(("Metric", "", ""), [row for row in rows if row.lines])


def _lines(metric: Metric) -> Iterator[tuple[Text, Text]]:
    """Yield a number and what it counts.

    Counters and gauges are added up by error and retry reason, histograms by call outcome.
    """
    numbers: dict[str, int | float] = {}
    histograms: dict[str, list[HistogramDataPoint]] = {}
    for point in metric.data.data_points:
        attributes = point.attributes or {}
        if isinstance(point, NumberDataPoint):
            what = _counted(attributes)
            numbers[what] = numbers.get(what, 0) + point.value
        elif isinstance(point, HistogramDataPoint):
            histograms.setdefault(call_outcome(attributes) or "", []).append(point)
    for what, number in numbers.items():
        yield _line(number, what)
    if metric.name == metric_names.TOKEN_USAGE.name:
        yield from _token_lines(point for points in histograms.values() for point in points)
        return
    for outcome, points in histograms.items():
        count = sum(point.count for point in points)
        mean = sum(point.sum for point in points) / count
        unit = (metric.unit or "").replace("{attempt}", "attempts")
        yield _line(count, f"{outcome}, mean {mean:.2g} {unit}".removeprefix(", "))


def _token_lines(points: Iterable[HistogramDataPoint]) -> Iterator[tuple[Text, Text]]:
    """Yield the tokens, by their way and the key."""
    sums: dict[str, float] = {}
    for point in points:
        attributes = point.attributes or {}
        what = f"{attributes[gen_ai.TOKEN_TYPE]!s}, {_key(attributes)}"
        sums[what] = sums.get(what, 0) + point.sum
    for what, total in sums.items():
        yield _line(int(total), what)


def _line(number: float, what: str) -> tuple[Text, Text]:
    return Text(f"{number}", justify="right"), Text(what)


def _counted(attributes: Attributes) -> str:
    reason = attributes.get(names.RETRY_REASON)
    # Only a rate limit has no error and no reason. It is a key's.
    first = f"after {reason}" if reason else error_name(attributes) or _key(attributes)
    return ", ".join([first, *retry_faults(attributes)])


def _key(attributes: Attributes) -> str:
    return f"key {attributes.get(names.API_KEY_FINGERPRINT, 'unknown')!s}"
