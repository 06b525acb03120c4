"""The command line: its options, and its commands by name."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from assisters_otel import names
from assisters_otel.cli import demo, doctor, errors, explain, fake_api

app: Final = typer.Typer(
    name="assisters-otel",
    help="OpenTelemetry for the Assisters API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(name="demo", help=demo.HELP)(demo.demo)
app.command(name="doctor", help=doctor.HELP)(doctor.doctor)
app.command(name="errors", help=errors.HELP)(errors.errors)
app.command(name="explain", help=explain.HELP)(explain.explain)
app.command(name="fake-api", help=fake_api.HELP)(fake_api.fake_api)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it by position
    if wanted:
        typer.echo(f"assisters-otel {names.__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    """Take the options that stand before a command."""
