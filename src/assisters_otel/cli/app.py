"""The command line: its options, and its commands by name."""

from __future__ import annotations

from typing import Annotated, Final

import typer

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


@app.callback()
def options(
    *,
    version: Annotated[bool, typer.Option("--version", help="Say which this is.")] = False,
) -> None:
    """Take the options that stand before a command; `main` has answered ``--version``."""
