"""The demo for people: one tree per scene, the metrics, the log, and what to do next."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text
from rich.tree import Tree

from assisters_otel.cli import output, span_text
from assisters_otel.cli.demo import metrics_table
from assisters_otel.cli.demo.playing import is_attempt
from assisters_otel.cli.demo.recording import SERVICE
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from rich.console import RenderableType

    from assisters_otel.cli.demo.playing import DemoResult, PlayedScene

_LOG_LINES: Final = 2
"""The number of log lines that are shown. The others look alike."""

_TITLE: Final = f"[bold]assisters-otel {__version__}[/]: real clients against a fake API\n"

_PICTURE_TRACES: Final = 2
_PICTURE_COLUMNS: Final = 100


def show(result: DemoResult) -> None:
    """Print the whole demo."""
    output.show(*_parts(result))


def draw(result: DemoResult) -> str:
    """Return the first traces as an SVG picture that loads nothing from the network."""
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
    """Return the spans of a scene, each below its parent.

    Args:
        played: The scene.
        advised: The codes whose advice has been shown; see `span_text.attempt_text`.
    """
    title = f"[bold]{played.scene.title}[/]  [dim]trace {played.trace_id}[/]"
    tree = Tree(title, guide_style="dim")
    branches = {played.span.context.span_id: tree}
    for span in played.spans:
        parent = branches.get(span.parent.span_id if span.parent else 0, tree)
        branches[span.context.span_id] = parent.add(_text(span, advised))
    return tree


def _text(span: ReadableSpan, advised: set[str]) -> RenderableType:
    attributes = span.attributes or {}
    if is_attempt(span):
        return span_text.attempt_text(span.name, attributes, advised)
    return span_text.call_text(span.name, attributes)


def _log(lines: Sequence[str]) -> Text:
    shown = [Text.assemble(("WARNING ", "yellow"), line) for line in lines[:_LOG_LINES]]
    if len(lines) > _LOG_LINES:
        shown.append(Text(f"and {len(lines) - _LOG_LINES} lines more", "dim"))
    return Text("\n").join(shown)


def _destinations(result: DemoResult) -> Iterator[RenderableType]:
    """Yield where the telemetry went, or how to send it somewhere."""
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


def _command() -> str:
    """Return what starts this command line again, also where its script is not on the PATH."""
    script = Path(sysconfig.get_path("scripts"), "assisters-otel")
    found = shutil.which("assisters-otel")
    if found and script.exists() and script.samefile(found):
        return "assisters-otel"
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return f"{shlex.quote(str(python))} -m assisters_otel"
