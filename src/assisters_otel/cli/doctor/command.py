"""``assisters-otel doctor``: why do I see nothing?"""

from __future__ import annotations

import json as json_
import os
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assisters_otel.cli.doctor.finding import Finding

HELP: Final = (
    "Answer why nothing is seen: look at the environment, the installed packages and the way "
    "to the collector, and send one span and one metric where an endpoint is named. Run it where "
    "your app runs, with its variables. Exits with 1 if it has found something to do, with 2 if "
    "it was called wrongly."
)


def doctor(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An OTLP receiver in place of the variables'."),
    ] = None,
) -> None:
    """Look, and print what was found.

    Raises:
        typer.Exit: There is something to do.
    """
    from rich.console import Console  # noqa: PLC0415 - the extra's

    from assisters_otel.cli import captured_log  # noqa: PLC0415
    from assisters_otel.cli.doctor import environment  # noqa: PLC0415

    with (
        Console(stderr=True).status(
            "Looking, and sending one span and one metric where an endpoint is named …"
        ),
        captured_log.heard(),
    ):
        found = list(environment.every(endpoint, os.environ))  # they say what the library would
    if json:
        document = {"ok": all(one.fine for one in found), "findings": [o._asdict() for o in found]}
        typer.echo(json_.dumps(document, indent=2))
    else:
        _show(found)
    if not all(one.fine for one in found):
        raise typer.Exit(1)


def _show(found: Sequence[Finding]) -> None:
    from rich.table import Table  # noqa: PLC0415 - the extra's
    from rich.text import Text  # noqa: PLC0415

    from assisters_otel.cli import output  # noqa: PLC0415

    console = output.console()
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")  # what is to be copied is shown whole
    for one in found:
        mark = Text("ok", "green") if one.fine else Text("!!", "bold red")
        check, told = Text(one.check, "dim"), Text(one.what)
        if one.to_do:
            told.append(f"\n{one.to_do}", "bold")
        if console.width < output.NARROW:
            output.show(console, output.block(Text.assemble(mark, "  ", check), told, indent=4))
        else:
            table.add_row(mark, check, told)
    if table.row_count:
        output.show(console, table)
    wrong = sum(not one.fine for one in found)
    count = f"{wrong} thing{'' if wrong == 1 else 's'} to do"
    output.show(console, Text(f"\n{count if wrong else 'Nothing to do.'}", "bold"))
