"""``assisters-otel doctor``: answers "why do I see nothing?"."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from assisters_otel.cli import output
from assisters_otel.cli.captured_log import captured_log

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
    """Run all checks, and print their findings.

    Raises:
        typer.Exit: A finding has something to do.
    """
    # Here, so that `--help` and the other commands need not wait for OpenTelemetry's SDK.
    from assisters_otel.cli.doctor import environment  # noqa: PLC0415

    with (
        output.status("Looking, and sending one span and one metric where an endpoint is named …"),
        captured_log(),
    ):
        # The log is dropped: what the library would warn of is among the findings
        # (test_whatever_init_warns_of_is_among_the_findings).
        findings = list(environment.run_checks(endpoint, os.environ))
    is_fine = all(finding.fine for finding in findings)
    if json:
        output.show_json({"ok": is_fine, "findings": [finding._asdict() for finding in findings]})
    else:
        _show(findings)
    if not is_fine:
        raise typer.Exit(1)


def _show(findings: Sequence[Finding]) -> None:
    wrong = sum(not finding.fine for finding in findings)
    count = f"{wrong} thing{'' if wrong == 1 else 's'} to do"
    output.show(
        output.Listing(("", "", ""), list(map(_row, findings)), indent=4),
        Text(f"\n{count if wrong else 'Nothing to do.'}", "bold"),
    )


def _row(finding: Finding) -> output.Row:
    mark = Text("ok", "green") if finding.fine else Text("!!", "bold red")
    text = Text(finding.what)
    if finding.to_do:
        text.append(f"\n{finding.to_do}", "bold")
    return output.Row((mark, Text(finding.check, "dim")), ((text,),))
