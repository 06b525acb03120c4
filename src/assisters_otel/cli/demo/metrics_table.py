"""What the demo's metrics have counted, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics.export import HistogramDataPoint, NumberDataPoint
from rich.console import Group
from rich.table import Table
from rich.text import Text

from assisters_otel.cli.demo.playing import error, outcome
from assisters_otel.cli.output import block
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.sdk.metrics.export import Metric
    from rich.console import RenderableType

    Attributes = Mapping[str, object]


def table(metrics: Iterable[Metric]) -> RenderableType:
    """Put all metrics into one table, each name once."""
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    rows.add_column("Metric", no_wrap=True)
    rows.add_column("", justify="right")
    rows.add_column("", overflow="fold")
    for metric in metrics:
        name = metric.name
        for number, text in _rows(metric):
            rows.add_row(name, number, Text(text))
            name = ""  # said once
    return rows


def blocks(metrics: Iterable[Metric]) -> RenderableType:
    """Put each metric into a block of its own, below its name."""
    return Group(*(block(Text(metric.name), _grid(metric)) for metric in metrics))


def _grid(metric: Metric) -> Table:
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(justify="right", no_wrap=True)
    rows.add_column(overflow="fold")
    for number, text in _rows(metric):
        rows.add_row(number, Text(text))
    return rows


def _rows(metric: Metric) -> Iterator[tuple[str, str]]:
    """Give a number and what it counts, for each thing that a metric tells apart."""
    numbers: dict[str, int | float] = {}
    histograms: dict[str, list[HistogramDataPoint]] = {}
    for point in metric.data.data_points:
        attributes = point.attributes or {}
        if isinstance(point, NumberDataPoint):
            what = _counted(attributes)
            numbers[what] = numbers.get(what, 0) + point.value
        elif isinstance(point, HistogramDataPoint):
            histograms.setdefault(outcome(attributes) or "", []).append(point)
    for what, number in numbers.items():
        yield f"{number}", what
    for ended, points in histograms.items():
        count = sum(point.count for point in points)
        mean = sum(point.sum for point in points) / count
        unit = (metric.unit or "").replace("{attempt}", "attempts")
        yield f"{count}", f"{ended}, mean {mean:.2g} {unit}".removeprefix(", ")


def _counted(attributes: Attributes) -> str:
    reason = attributes.get(names.RETRY_REASON)
    first = f"after {reason}" if reason else error(attributes) or ""
    return ", ".join([first, *unwise(attributes)])


def unwise(attributes: Attributes) -> Iterator[str]:
    """Say what is wrong with a retry, as its span or its metric point has it."""
    if attributes.get(names.RETRY_EARLY):
        yield "earlier than asked"
    if attributes.get(names.RETRY_FUTILE):
        yield "no use"
