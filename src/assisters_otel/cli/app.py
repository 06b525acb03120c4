"""The `typer` application: the command line's options, and its commands by name."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from assisters_otel.cli import alerts, check_retries, errors, explain, fake_api, fingerprint
from assisters_otel.cli.demo import command as demo
from assisters_otel.cli.doctor import command as doctor
from assisters_otel.cli.watch import command as watch

app: Final = typer.Typer(
    name="assisters-otel",
    help="OpenTelemetry for the Assisters API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Without a terminal rich cuts the lines of its boxes at 80 columns.
    rich_markup_mode="rich" if sys.stderr.isatty() else None,
)
app.command(name="alerts", help=alerts.HELP)(alerts.alerts)
app.command(name="check-retries", help=check_retries.HELP)(check_retries.check_retries)
app.command(name="demo", help=demo.HELP)(demo.demo)
app.command(name="doctor", help=doctor.HELP)(doctor.doctor)
app.command(name="errors", help=errors.HELP)(errors.errors)
app.command(name="explain", help=explain.HELP)(explain.explain)
app.command(name="fake-api", help=fake_api.HELP)(fake_api.fake_api)
app.command(name="fingerprint", help=fingerprint.HELP, context_settings=fingerprint.CONTEXT)(
    fingerprint.fingerprint
)
app.command(name="watch", help=watch.HELP)(watch.watch)


@app.callback()
def options(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Say which this is.")] = False,  # noqa: ARG001 - `main` answers it, here it is for --help
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, as the command's own --json.")
    ] = False,
) -> None:
    """Apply the options that stand before a command to the command."""
    if json:
        context.default_map = {
            str(command.name): {"json": True} for command in app.registered_commands
        }
