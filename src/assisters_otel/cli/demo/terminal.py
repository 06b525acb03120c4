"""The demo for people: for each scene a tree of calls and attempts; metrics, log, what now."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_RESEND_COUNT,
    HTTP_RESPONSE_STATUS_CODE,
)
from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text
from rich.tree import Tree

from assisters_otel import catalog
from assisters_otel.cli import output
from assisters_otel.cli.demo import metrics_table
from assisters_otel.cli.demo.playing import error, is_attempt, outcome, stream
from assisters_otel.cli.demo.recording import SERVICE
from assisters_otel.semconv import attributes as names
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from rich.console import RenderableType

    from assisters_otel.cli.demo.playing import DemoResult, PlayedScene

    Attributes = Mapping[str, object]

_OLD_STATUS_CODE: Final = "http.status_code"
"""The status under the old conventions, which the HTTP instrumentation still writes by default."""

_LOG_LINES: Final = 2
"""Lines of the log that are shown; the rest is alike."""

_WINDOWS: Final = ("requests", "tokens")

_TITLE: Final = f"[bold]assisters-otel {__version__}[/]: real clients against a fake API\n"

_PICTURE_TRACES: Final = 2
_PICTURE_COLUMNS: Final = 100

_COLOURS: Final = {
    **dict.fromkeys((names.OK, names.RECOVERED, names.COMPLETED), "green"),
    **dict.fromkeys((names.CANCELLED_CALL, names.ABANDONED), "yellow"),
}
"""Of a call's or a stream's outcome; all else is red."""


def show(result: DemoResult) -> None:
    """Print the demo to the terminal, or as plain text where there is none."""
    output.show(*_parts(result))


def draw(result: DemoResult) -> str:
    """Give the first traces as a picture, in SVG, which fetches nothing from anywhere."""
    console = Console(
        highlight=False,
        record=True,
        width=_PICTURE_COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
    )
    console.print(_TITLE)
    advised: set[str] = set()
    for played in result.played[:_PICTURE_TRACES]:
        console.print(_tree(played, advised))
        console.print()
    drawn = console.export_svg(title="assisters-otel demo")
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)


def _parts(result: DemoResult) -> Iterator[RenderableType]:
    yield _TITLE
    advised: set[str] = set()
    for played in result.played:
        yield _tree(played, advised)
        yield ""
    yield metrics_table.listing(result.metrics)
    yield "\n[bold]What your log says[/]"
    yield Padding.indent(_log(result.log), 2)
    yield "\n[bold]What you write in your app[/]"
    yield Padding.indent('import assisters_otel\nassisters_otel.init("checkout")', 2)
    yield ""
    yield from _destinations(result)
    for problem in result.problems:
        yield f"[bold red]Not as it should be:[/] {escape(problem)}"


def _tree(played: PlayedScene, advised: set[str]) -> Tree:
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
        return _call(span.name, attributes)
    name = error(attributes)
    status = attributes.get(HTTP_RESPONSE_STATUS_CODE, attributes.get(_OLD_STATUS_CODE))
    told = [str(status) if status else "no answer"]
    if name != told[0]:
        told += [name or "ok"]
    head = Text.assemble((" ".join(told), "bold red" if name else "bold green"), f"  {span.name}")
    lines = [head, *_resend(attributes)]
    lines += [Text(", ".join(facts)) for facts in _facts(attributes) if facts]
    known = catalog.find(name) if name and name not in advised else None
    if known:
        advised.add(known.code)
        lines.append(Text(f"to do: {known.advice}", "dim"))
    return Group(*lines)


def _call(name: str, attributes: Attributes) -> RenderableType:
    """Say how an SDK's call ended, and what it took."""
    ended = outcome(attributes) or stream(attributes)
    if ended is None:
        return escape(name)
    head = Text.assemble((ended, f"bold {_COLOURS.get(ended, 'red')}"), f"  {name}")
    return Group(head, *_between(attributes), *_stream(attributes))


def _between(attributes: Attributes) -> Iterator[Text]:
    """Say what a call's retries were."""
    retries = attributes.get(names.RETRY_COUNT)
    if retries:
        plural = "retry" if retries == 1 else "retries"
        wait = f"{attributes[names.RETRY_WAIT]:.2f} s"
        yield Text(f"{retries} {plural}, {wait} between the attempts")


def _stream(attributes: Attributes) -> Iterator[Text]:
    """Say how an event stream ended, and what had come of it."""
    ended = stream(attributes)
    if ended is None:
        return
    failed = error(attributes)
    told = [f"stream {ended}" if failed in (None, ended) else f"stream {ended}: {failed}"]
    told.append(f"{attributes[names.STREAM_CHUNKS]} chunks")
    if names.STREAM_FIRST_CHUNK in attributes:
        told.append(f"the first after {attributes[names.STREAM_FIRST_CHUNK]:.2f} s")
    yield Text(", ".join(told))
    if names.REQUEST_ID in attributes:
        yield Text(f"request id {attributes[names.REQUEST_ID]}")


def _resend(attributes: Attributes) -> Iterator[Text]:
    """Say which resend an attempt is, of what, and whether that was wise."""
    number = attributes.get(HTTP_REQUEST_RESEND_COUNT)
    if not number:
        return
    told = Text(f"resend {number}")
    if names.RETRY_REASON in attributes:
        told.append(f" after {attributes[names.RETRY_REASON]}")
    if names.RETRY_DELAY in attributes:
        told.append(f", {attributes[names.RETRY_DELAY]:.2f} s later")
    for text in metrics_table.retry_faults(attributes):
        told.append(", ").append(text, "yellow")
    yield told


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
    # Of a refusal that no pause helps, as of a month's tokens, the minute's limits say nothing.
    yield [
        f"{attributes[left]} of {attributes[limit]} {window} left"
        for window in _WINDOWS
        for left in [names.RATELIMIT.format(window, "remaining")]
        for limit in [names.RATELIMIT.format(window, "limit")]
        if attributes.get(names.ERROR_RETRYABLE) and left in attributes and limit in attributes
    ]
    if names.REQUEST_ID in attributes:
        yield [f"request id {attributes[names.REQUEST_ID]}"]


def _log(lines: Sequence[str]) -> Text:
    shown = [Text.assemble(("WARNING ", "yellow"), line) for line in lines[:_LOG_LINES]]
    if len(lines) > _LOG_LINES:
        shown.append(Text(f"and {len(lines) - _LOG_LINES} lines more", "dim"))
    return Text("\n").join(shown)


def _command() -> str:
    """Return what calls this very command line, also where its script is not on the PATH."""
    script = Path(sysconfig.get_path("scripts"), "assisters-otel")
    found = shutil.which("assisters-otel")
    if found and script.exists() and script.samefile(found):
        return "assisters-otel"
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return f"{shlex.quote(str(python))} -m assisters_otel"


def _destinations(result: DemoResult) -> Iterator[RenderableType]:
    """Say where telemetry went."""
    if result.sent is None:
        yield "Nothing was sent: no endpoint is set. To look at it in Jaeger:"
        yield output.uncut(f"  {_command()} demo --endpoint http://localhost:4318")
        return
    yield (
        f"Sent as service [bold]{SERVICE}[/], by the trace ids above:"
        if result.sent
        else f"Not all of it, service {SERVICE}, arrived at:"
    )
    for destination in result.destinations:
        yield Text(f"  {destination}")
