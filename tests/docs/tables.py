"""Writes the documentation's reference tables: python tests/docs/tables.py.

Their rows are made from `semconv`, from the catalog and from nothing else. A test compares them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pages import ROOT

from assisters_otel import catalog
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import metrics as metric_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SPANS = ROOT / "docs" / "spans.md"
METRICS = ROOT / "docs" / "metrics.md"
ERRORS = ROOT / "docs" / "errors.md"


def of_attributes(attributes: Sequence[names.Attribute]) -> list[list[str]]:
    """Return a row for each attribute."""
    return [[f"`{one.name}`", one.type, one.when, one.value] for one in attributes]


def of_metrics() -> list[list[str]]:
    """Return a row for each instrument."""
    return [
        [
            f"`{one.name}`",
            one.instrument,
            f"`{one.unit}`",
            ", ".join(f"`{name}`" for name in one.attributes),
        ]
        for one in metric_names.METRICS
    ]


def of_errors() -> list[list[str]]:
    """Return a row for each documented error, with an anchor that Jaeger's page links to."""
    return [
        [
            f'<a id="error-{one.code}"></a>`{one.code}`',
            str(one.status),
            f"`{one.type}`",
            "yes" if one.retryable else "no",
            one.advice,
        ]
        for one in catalog.ERRORS
    ]


def tables() -> list[tuple[Path, str, list[list[str]]]]:
    """Return each table: its page, its first heading, its rows."""
    return [
        (SPANS, "attribute", of_attributes(names.ATTEMPT_ATTRIBUTES)),
        (SPANS, "attribute of a call", of_attributes(names.CALL_ATTRIBUTES)),
        (SPANS, "attribute of a stream", of_attributes(names.STREAM_ATTRIBUTES)),
        (METRICS, "metric", of_metrics()),
        (ERRORS, "code", of_errors()),
    ]


def written(page: str, head: str, rows: list[list[str]]) -> str:
    """Return a page's text with the rows of one table replaced."""
    lines = page.splitlines()
    (start,) = [n for n, line in enumerate(lines) if line.startswith(f"| {head} |")]
    first = end = start + 2
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    lines[first:end] = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    for path, head, rows in tables():
        path.write_text(written(path.read_text("utf-8"), head, rows), "utf-8")


if __name__ == "__main__":
    main()
