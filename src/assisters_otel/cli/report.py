"""The demo for people: a tree of attempts for each scene, a table of metrics, and what now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.metrics.export import NumberDataPoint
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import HTTP_RESPONSE_STATUS_CODE
from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from assisters_otel import catalog, names
from assisters_otel.cli.performance import error, is_attempt
from assisters_otel.cli.recording import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from opentelemetry.sdk.metrics.export import Metric
    from opentelemetry.sdk.trace import ReadableSpan
    from rich.console import RenderableType

    from assisters_otel.cli.performance import Performance, Played

    Attributes = Mapping[str, object]

_OLD_STATUS_CODE: Final = "http.status_code"
"""The status under the old conventions, which the HTTP instrumentation still writes by default."""

_LOG_LINES: Final = 2
"""Lines of the log that are shown; the rest is alike."""

_WINDOWS: Final = ("requests", "tokens")


def show(performance: Performance) -> None:
    """Print the demo to the terminal, or as plain text where there is none."""
    console = Console(highlight=False)
    for part in _parts(performance):
        console.print(part)


def _parts(performance: Performance) -> Iterator[RenderableType]:
    yield f"[bold]assisters-otel {names.__version__}[/]: real clients against a fake API\n"
    advised: set[str] = set()
    for played in performance.played:
        yield _tree(played, advised)
        yield ""
    yield _metrics(performance.metrics)
    yield "\n[bold]What your log says[/]"
    yield Padding.indent(_log(performance.log), 2)
    yield "\n[bold]What you write in your app[/]"
    yield Padding.indent('import assisters_otel\nassisters_otel.init("checkout")', 2)
    yield ""
    yield from _whereabouts(performance)
    for problem in performance.problems:
        yield f"[bold red]Not as it should be:[/] {escape(problem)}"


def _tree(played: Played, advised: set[str]) -> Tree:
    title = f"[bold]{played.scene.title}[/]  [dim]trace {played.trace_id}[/]"
    tree = Tree(title, guide_style="dim")
    branches = {played.span.context.span_id: tree}
    for span in played.spans:
        parent = branches.get(span.parent.span_id if span.parent else 0, tree)
        branches[span.context.span_id] = parent.add(_label(span, advised))
    return tree


def _label(span: ReadableSpan, advised: set[str]) -> RenderableType:
    attributes = span.attributes or {}
    if not is_attempt(span):
        return escape(span.name)
    name = error(attributes)
    status = attributes.get(HTTP_RESPONSE_STATUS_CODE, attributes.get(_OLD_STATUS_CODE))
    told = [str(status) if status else "no answer"]
    if name != told[0]:
        told += [name or "ok"]
    head = Text.assemble((" ".join(told), "bold red" if name else "bold green"), f"  {span.name}")
    lines = [head]
    lines += [Text(", ".join(facts)) for facts in _facts(attributes) if facts]
    known = catalog.find(name) if name and name not in advised else None
    if known:
        advised.add(known.code)
        lines.append(Text(f"to do: {known.advice}", "dim"))
    return Group(*lines)


def _facts(attributes: Attributes) -> Iterator[list[str]]:
    """Say what stands on the span, a list for each line."""
    facts = []
    if names.ERROR_CODE in attributes:
        facts.append(f"type {attributes[ERROR_TYPE]}")
    if names.ERROR_PARAM in attributes:
        facts.append(f"param {attributes[names.ERROR_PARAM]}")
    if names.ERROR_RETRYABLE in attributes:
        facts.append(f"retryable {'yes' if attributes[names.ERROR_RETRYABLE] else 'no'}")
    if names.RETRY_AFTER in attributes:
        facts.append(f"retry after {attributes[names.RETRY_AFTER]} s")
    yield facts
    yield [
        f"{attributes[left]} of {attributes[limit]} {window} left"
        for window in _WINDOWS
        for left in [names.RATELIMIT.format(window, "remaining")]
        for limit in [names.RATELIMIT.format(window, "limit")]
        if left in attributes and limit in attributes
    ]
    if names.REQUEST_ID in attributes:
        yield [f"request id {attributes[names.REQUEST_ID]}"]


def _metrics(metrics: Iterable[Metric]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("Metric", no_wrap=True)
    table.add_column("", justify="right")
    table.add_column("")
    for metric in metrics:
        name = metric.name
        for number, text in _rows(metric):
            table.add_row(name, number, Text(text))
            name = ""  # said once
    return table


def _rows(metric: Metric) -> Iterator[tuple[str, str]]:
    """Give a number and what it counts, for each error that a counter tells apart."""
    histograms = []
    for point in metric.data.data_points:
        if isinstance(point, NumberDataPoint):
            yield f"{point.value}", error(point.attributes) or ""
        else:
            histograms.append(point)
    if histograms:
        count = sum(point.count for point in histograms)
        total = sum(point.sum for point in histograms)
        yield f"{count}", f"{total / count:.2g} {metric.unit} on average"


def _log(lines: Sequence[str]) -> Text:
    shown = [Text.assemble(("WARNING ", "yellow"), line) for line in lines[:_LOG_LINES]]
    if len(lines) > _LOG_LINES:
        shown.append(Text(f"and {len(lines) - _LOG_LINES} lines more", "dim"))
    return Text("\n").join(shown)


def _whereabouts(performance: Performance) -> Iterator[RenderableType]:
    """Say where telemetry went."""
    if performance.sent is None:
        yield "Nothing was sent: no endpoint is set. To look at it in Jaeger:"
        yield "  assisters-otel demo --endpoint http://localhost:4318"
        return
    yield (
        f"Sent as service [bold]{SERVICE}[/], by the trace ids above:"
        if performance.sent
        else f"Not all of it, service {SERVICE}, arrived at:"
    )
    for destination in performance.destinations:
        yield Text(f"  {destination}")
