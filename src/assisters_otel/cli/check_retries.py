"""``assisters-otel check-retries MODULE:FUNCTION``: is a retry policy as good as it should be?"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from assisters_otel.api import redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from assisters_otel.testing import FakeApi, RetryReport, RetryRow

HELP: Final = (
    "Prove a retry policy. FUNCTION takes a fake API and calls it once, at its url, as the app "
    "does; it may be async. Some fifty calls meet every documented error. Exits with 1 if a rule "
    "is broken that is no mere remark."
)
_LIMIT_S: Final = 60.0
_COLOURS: Final = {"error": "bold red", "remark": "bold yellow"}


def check_retries(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="For example my_app.client:ask. MODULE is looked for in this folder, too.",
            show_default=False,
        ),
    ],
    *,
    leave_out: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="Do not judge it. Several times.")
    ] = None,
    limit_s: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long a call may take.")
    ] = _LIMIT_S,
    in_turn: Annotated[
        bool,
        typer.Option("--in-turn", help="One call after the other, as a circuit breaker needs it."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Play the scenarios and print the report.

    Raises:
        typer.BadParameter: There is no such function, or it does not call the API.
        typer.Exit: A rule is broken that is no mere remark.
    """
    from assisters_otel import testing  # noqa: PLC0415 - it takes OpenTelemetry's SDK
    from assisters_otel.cli import output  # noqa: PLC0415 - the extra's

    _ = testing.check_retries  # which says what to install, before the app is imported
    from assisters_otel.testing.retry_policy import check  # noqa: PLC0415 - of another extra

    call = _find(target)
    try:
        report = check.check_policy(
            call,
            leave_out=leave_out or (),
            succeeded=None,
            parallel=not in_turn,
            limit_s=limit_s,
            words=check.Words(target, "--limit-s", f"--limit-s {_LIMIT_S:g}"),
        )
    except testing.RetryPolicyError as error:
        report = error.report
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error  # without secrets: see check.py
    if json:
        output.show_json(report.as_dict())
    else:
        output.show(*_parts(report))
    if not report.ok:
        raise typer.Exit(1)


def _find(target: str) -> Callable[[FakeApi], object]:
    module, _, name = target.partition(":")
    if not module or not name:
        raise typer.BadParameter(f"{target!r}: write MODULE:FUNCTION, my_app.client:ask")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` has it
    try:
        found: object = importlib.import_module(module)
    except Exception as error:
        # `main` would report the app's ImportError as a missing extra of this package.
        told = redaction.redact(f"{type(error).__name__}: {error}")
        raise typer.BadParameter(f"{target}: {module} cannot be imported: {told}") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise typer.BadParameter(f"{target}: {module} has no function {name}")
    return found


def _parts(report: RetryReport) -> Iterator[RenderableType]:
    from rich.text import Text  # noqa: PLC0415 - the extra's

    head, *rest = str(report).split("\n\n")
    yield Text(head, "bold" if report.ok else "bold red")
    for row in (*report.errors, *report.remarks):
        yield ""
        yield from _row(row)
    yield ""
    yield Text(rest[-1])


def _row(row: RetryRow) -> Iterator[RenderableType]:
    from rich.padding import Padding  # noqa: PLC0415 - the extra's
    from rich.text import Text  # noqa: PLC0415

    from assisters_otel.cli import output  # noqa: PLC0415

    yield Text.assemble((row.kind, _COLOURS[row.kind]), "  ", (row.rule, "bold"))
    table = output.grid("", "")
    for name, value in (
        ("expected", row.expected),
        ("seen", row.seen),
        ("to do", row.advice),
        ("from", row.source),
    ):
        table.add_row(Text(name, "dim"), Text(value))
    yield Padding.indent(table, 2)
