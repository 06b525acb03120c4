"""``assisters-otel errors``: the documented errors as a table, or one below the other."""

from __future__ import annotations

import json as json_
from typing import Annotated, Final

import typer

from assisters_otel import catalog

HELP: Final = "List the documented errors: status, type, whether a retry helps, what to do."


def errors(
    *, json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False
) -> None:
    """Print the catalog."""
    if json:
        typer.echo(json_.dumps([error._asdict() for error in catalog.ERRORS], indent=2))
        return
    from rich.table import Table  # noqa: PLC0415 - the extra's
    from rich.text import Text  # noqa: PLC0415

    from assisters_otel.cli import output  # noqa: PLC0415

    console = output.console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    heads = ("Code", "Status", "Retry")
    for name in heads:
        table.add_column(name, no_wrap=True)
    table.add_column("What to do", overflow="fold")
    is_narrow = console.width < output.NARROW
    if is_narrow:
        output.show(console, Text("  ".join(heads), "bold"))
    for error in catalog.ERRORS:
        code, status = Text(error.code, "bold"), str(error.status)
        helps = Text("helps", "green") if error.retryable else Text("no use", "red")
        if is_narrow:
            head = Text("  ").join((code, Text(status), helps))
            output.show(console, output.block(head, Text(error.advice)))
        else:
            table.add_row(code, status, helps, error.advice)
    if not is_narrow:
        output.show(console, table)
