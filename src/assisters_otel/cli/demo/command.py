"""``assisters-otel demo``: real clients get documented errors from a fake API, recorded live."""

from __future__ import annotations

import os
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import Annotated, Final

import typer

from assisters_otel import config
from assisters_otel.cli import output
from assisters_otel.semconv import environment

HELP: Final = (
    "Let real clients meet documented errors on a fake API, and show what telemetry says of "
    "them. It goes to --endpoint or to the endpoint in OTEL_EXPORTER_OTLP_*, if there is one. "
    "Exits with 1 if anything did not come out as it should."
)


def demo(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send it to this OTLP receiver, too, for example http://localhost:4318.",
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the first traces to this file, too, as a picture (SVG)."
        ),
    ] = None,
) -> None:
    """Play the scenes, and show what was recorded.

    Raises:
        typer.BadParameter: The endpoint, the picture's file or a variable cannot be used.
        typer.Exit: The telemetry is not what the scenes expect, or did not arrive.
    """
    from assisters_otel.cli.demo import json_document, playing, terminal  # noqa: PLC0415 - of another extra
    from assisters_otel.cli.demo.recording import Recording  # noqa: PLC0415

    if config.sdk_disabled(os.environ):
        raise typer.BadParameter(
            f"{environment.OTEL_SDK_DISABLED} is true: there is nothing to show."
        )
    try:
        recording = Recording(endpoint)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with output.status("Playing five scenes against a fake API …"):
        result = playing.run_scenes(recording)
    if json:
        output.show_json(json_document.document(result))
    else:
        terminal.show(result)
    if picture is not None:
        try:
            picture.write_text(terminal.draw(result), "utf-8")
        except OSError as error:
            raise typer.BadParameter(f"--picture cannot be written: {error}") from error
    if result.problems:
        raise typer.Exit(1)
