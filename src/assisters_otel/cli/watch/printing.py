"""The printers of `watch`: trees for people, lines of JSON for machines, a picture."""

from __future__ import annotations

import io
import re
import shutil
import sys
import time
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console, Group
from rich.text import Text
from rich.tree import Tree

from assisters_otel.cli import output, span_text
from assisters_otel.cli.watch import advice
from assisters_otel.cli.watch.calls import Shown
from assisters_otel.cli.watch.counts import TOKENS
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from rich.console import RenderableType

    from assisters_otel.cli.watch.counts import Counts
    from assisters_otel.cli.watch.otlp import Span

_RESEND: Final = "http.request.resend_count"
_TYPE: Final = "error.type"
_CLEAR: Final = "\r\x1b[K"  # Source: ECMA-48, EL: to the end of the line
_PICTURE_CALLS: Final = 3
_PICTURE_COLUMNS: Final = 100


class Printer(Protocol):
    """The interface of all printers."""

    def show(self, shown: Shown) -> None:
        """Print a call."""

    def count(self, counts: Counts) -> None:
        """Print the running count, if the output has a place for it."""

    def end(self, counts: Counts) -> None:
        """Print the last count."""


class Trees:
    """Prints trees, and on a terminal the running count below them."""

    def __init__(self) -> None:
        """Find out whether the output is a terminal."""
        self._is_terminal = sys.stdout.isatty()
        self._told = ""

    def show(self, shown: Shown) -> None:
        """Print a call as a tree."""
        self._clear()
        output.show(tree(shown))

    def count(self, counts: Counts) -> None:
        """Write the count into the last line of a terminal, if it has changed."""
        told = str(counts)
        if self._is_terminal and told != self._told:
            columns = shutil.get_terminal_size().columns - 1
            sys.stdout.write(f"{_CLEAR}{told[:columns]}")
            sys.stdout.flush()
            self._told = told

    def end(self, counts: Counts) -> None:
        """Print the count on a line of its own."""
        self._clear()
        output.show(Text(str(counts), "bold"))

    def _clear(self) -> None:
        if self._told:
            sys.stdout.write(_CLEAR)
            self._told = ""


class Lines:
    """Prints a line of JSON for each call."""

    def show(self, shown: Shown) -> None:
        """Print a call; a trace of another app is none."""
        if shown.other is None:
            output.show_json(as_dict(shown), in_one_line=True)

    def count(self, counts: Counts) -> None:
        """Print nothing: a reader counts the lines."""

    def end(self, counts: Counts) -> None:
        """Print the last count on stderr, which is not parsed."""
        sys.stderr.write(f"{counts}\n")


class Picture:
    """Prints with another printer, and keeps the first calls for a picture."""

    def __init__(self, printer: Printer) -> None:
        """Create an empty picture beside *printer*."""
        self._printer = printer
        self._console = Console(
            highlight=False,
            record=True,
            width=_PICTURE_COLUMNS,
            file=io.StringIO(),
            force_terminal=True,
        )
        self._left = _PICTURE_CALLS

    def show(self, shown: Shown) -> None:
        """Print a call; keep it in the picture if it is one of the first."""
        self._printer.show(shown)
        if self._left and shown.other is None:
            self._left -= 1
            self._console.print(tree(shown))

    def count(self, counts: Counts) -> None:
        """Print the count."""
        self._printer.count(counts)

    def end(self, counts: Counts) -> None:
        """Print the last count, also in the picture."""
        self._printer.end(counts)
        self._console.print(Text(str(counts), "bold"))

    def draw(self) -> str:
        """Return the picture in SVG; it loads nothing from the network."""
        drawn = self._console.export_svg(title="assisters-otel watch")
        return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)


def tree(shown: Shown) -> RenderableType:
    """Return a call as a tree: its outcome, and below it its attempts with their errors."""
    head = shown.head
    at = time.strftime("%H:%M:%S", time.localtime(head.end_ns / 1e9))
    if shown.other is not None:
        told = f"{head.duration_s:.2f} s, {shown.spans} span{'' if shown.spans == 1 else 's'}"
        failed = Text("  error", "bold red") if head.has_failed else Text()
        other = Text.assemble(
            (f"{at}  ", "dim"), head.service, f"  {head.name}", (f"  {told}", "dim")
        )
        return other.append_text(failed)
    title = Text.assemble((f"{at}  ", "dim"), (head.service, "bold"))
    if shown.title is not None:
        title.append(f"  {shown.title}")
    title.append(f"  trace {head.trace_id}", "dim")
    root = Tree(title, guide_style="dim")
    branch = root
    # Each failure has its advice, also where the call before had the same; once in a call.
    advised: set[str] = set()
    if shown.call is not None:
        # The facts and the advice stand with the attempt that has failed, if one has the error.
        error = span_text.error_name(shown.call.attributes)
        is_told = error in {
            span_text.error_name(one.attributes) for one in shown.attempts if _has_failed(one)
        }
        lines = span_text.call_text(
            shown.call.name, shown.call.attributes, has_facts=shown.has_failed and not is_told
        )
        branch = root.add(lines if is_told else _advised(lines, shown, advised))
    for one in shown.attempts:
        branch.add(
            _advised(
                span_text.attempt_text(one.name, one.attributes, advised),
                Shown(attempts=(one,)),
                advised,
            )
        )
    if shown.stream is not None:
        lines = span_text.call_text(shown.stream.name, shown.stream.attributes)
        branch.add(_advised(lines, shown, advised))
    return root


def _has_failed(span: Span) -> bool:
    return names.ERROR_RETRYABLE in span.attributes


def _advised(lines: Group, shown: Shown, advised: set[str]) -> Group:
    """Return the lines of a call, with the advice if that is not among them yet."""
    error = span_text.error_name(shown.head.attributes)
    if error is None or error in advised or not (shown.has_failed or shown.head.has_failed):
        return lines
    advised.add(error)
    return Group(lines, Text(f"to do: {advice.advice(shown)}", "dim"))


def as_dict(shown: Shown) -> dict[str, object]:
    """Return a call as what JSON has."""
    head = shown.head
    attributes = head.attributes
    stream = attributes if shown.call is not None else (shown.stream or head).attributes
    return {
        "trace_id": head.trace_id,
        "span_id": head.span_id,
        "service": head.service,
        "name": head.name,
        "outcome": shown.outcome,
        "duration_s": round(head.duration_s, 6),
        "error": _error(attributes) if shown.has_failed else None,
        "request_id": _last(shown, names.REQUEST_ID),
        "retries": shown.retries,
        "attempts": [_attempt(one) for one in shown.attempts],
        "stream": stream.get(names.STREAM_OUTCOME),
        "tokens": {kind: attributes.get(name) for kind, name in TOKENS.items()},
        "advice": advice.advice(shown) if shown.has_failed else None,
    }


def _last(shown: Shown, name: str) -> object:
    spans = (shown.head, *reversed(shown.attempts))
    return next((one.attributes[name] for one in spans if name in one.attributes), None)


def _error(attributes: span_text.Attributes) -> dict[str, object] | None:
    return {
        "code": attributes.get(names.ERROR_CODE),
        "type": attributes.get(_TYPE),
        "param": attributes.get(names.ERROR_PARAM),
        "retryable": attributes.get(names.ERROR_RETRYABLE),
    }


def _attempt(span: Span) -> dict[str, object]:
    attributes = span.attributes
    return {
        "span_id": span.span_id,
        "name": span.name,
        "status": span_text.http_status(attributes),
        "duration_s": round(span.duration_s, 6),
        "resend": attributes.get(_RESEND, 0),
        "early": attributes.get(names.RETRY_EARLY),
        "futile": attributes.get(names.RETRY_FUTILE),
        "error": _error(attributes) if _has_failed(span) else None,
        "request_id": attributes.get(names.REQUEST_ID),
    }
