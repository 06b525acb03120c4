"""``assisters-otel watch``: each call as a tree, the moment that it has ended. No backend."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.cli.watch.calls import Shown
    from assisters_otel.cli.watch.printing import Printer
    from assisters_otel.cli.watch.receiver import Receiver

HELP: Final = (
    "Show each call of an app as a tree, the moment that it has ended, each failure with its "
    "advice, and a running count, until Ctrl-C. It receives OTLP/HTTP on loopback, from any app "
    "that exports there or from a collector. What is read by machines, --json, has a line a call."
)
PORT: Final = 4318
"""OTLP/HTTP's own."""

_LAST_PORT: Final = 65535
_LOOK_S: Final = 0.2
"""How often it looks for what has waited long enough, in seconds."""


def watch(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=_LAST_PORT, help="0 takes one that is free.")
    ] = PORT,
    errors: Annotated[bool, typer.Option("--errors", help="Show what has failed alone.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="At the end, write the first calls to this file as a picture (SVG).",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a call.")] = False,
) -> None:
    """Receive and print, until it is interrupted.

    Raises:
        typer.BadParameter: The port is taken, or the picture cannot be written.
    """
    from assisters_otel.cli.watch import printing  # noqa: PLC0415 - the extra's

    if picture is not None:
        with _writing():  # before hours of calls are lost to a folder that does not exist
            picture.open("ab").close()
    receiver = _receiver(port)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    printer: Printer = printing.Lines() if json else printing.Trees()
    drawing = printing.Picture(printer)
    with receiver:
        greeting = _greeting(receiver.url)
        print(greeting, file=sys.stderr if json else sys.stdout, flush=True)
        try:
            _run(receiver, printer if picture is None else drawing, over, errors=errors)
        except BrokenPipeError:  # `watch | head`
            sys.stderr.close()
    if picture is not None:
        with _writing():
            picture.write_text(drawing.draw(), "utf-8")


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise typer.BadParameter(f"--picture cannot be written: {error}") from error


def _receiver(port: int) -> Receiver:
    from assisters_otel.cli.watch.port_holder import port_holder  # noqa: PLC0415 - as below
    from assisters_otel.cli.watch.receiver import Receiver  # noqa: PLC0415 - the extra's

    try:
        return Receiver(port)
    except OSError as error:
        holder = port_holder(port)
        taken = f"is taken by {holder}" if holder else f"cannot be used: {error.strerror}"
        raise typer.BadParameter(
            f"port {port} {taken}. End that, or write --port {port + 1}, and set "
            f"OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:{port + 1} for the app"
        ) from error


def _greeting(url: str) -> str:
    return (
        f"Watching on {url}, until Ctrl-C. In another terminal:\n"
        f"  export OTEL_EXPORTER_OTLP_ENDPOINT={url} OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
    )


def _run(receiver: Receiver, printer: Printer, over: threading.Event, *, errors: bool) -> None:
    from assisters_otel.cli.watch.calls import Calls  # noqa: PLC0415 - the extra's
    from assisters_otel.cli.watch.counts import Counts  # noqa: PLC0415
    from assisters_otel.cli.watch.receiver import BEHIND  # noqa: PLC0415

    calls, counts = Calls(), Counts()

    def show(ended: list[Shown]) -> None:
        is_behind = receiver.waiting > BEHIND
        for one in ended:
            counts.add(one)
            if one.has_failed or not (errors or is_behind):
                if not (errors and one.other is not None):
                    printer.show(one)
            elif is_behind:
                counts.hidden += 1
        printer.count(counts)

    while not over.is_set():
        calls.add(receiver.take(_LOOK_S), time.monotonic())
        show(calls.take(time.monotonic()))
    while spans := receiver.take(0):
        calls.add(spans, time.monotonic())
        show(calls.take(time.monotonic()))  # each time, or more would wait than can be kept
    show(calls.take(time.monotonic(), all_of_them=True))
    printer.end(counts)
