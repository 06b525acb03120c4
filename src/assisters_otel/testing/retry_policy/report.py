"""The report of `check_retries`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from assisters_otel.testing.retry_policy.rules import Kind

Outcome = Literal["kept", "broken", "left out", "not judged"]

_FIELDS: Final = (
    ("expected", "expected"),
    ("seen", "seen"),
    ("to do", "advice"),
    ("from", "source"),
)


@dataclass(frozen=True)
class RetryRow:
    """The outcome of one rule.

    Attributes:
        rule: The name of the rule, as `leave_out` takes it.
        kind: ``"error"`` or ``"remark"``: the severity of a broken rule.
        outcome: ``"kept"``, ``"broken"``, ``"left out"``, or ``"not judged"`` if the call gave no
            occasion to judge the rule.
        expected: The behaviour of a good policy.
        seen: The behaviour of this policy.
        advice: The change that mends the policy.
        source: The place in the documentation of the API.
    """

    rule: str
    kind: Kind
    outcome: Outcome
    expected: str
    seen: str
    advice: str
    source: str


@dataclass(frozen=True)
class RetryReport:
    """The report of `check_retries`, with a row for each rule. Its text is the table.

    Attributes:
        rows: The rows, in the order of the rules.
        calls: The number of calls that were played.
        duration_s: The time that the check took, in seconds.
    """

    rows: tuple[RetryRow, ...]
    calls: int
    duration_s: float

    @property
    def ok(self) -> bool:
        """True if no rule of the kind "error" is broken."""
        return not self.errors

    @property
    def errors(self) -> tuple[RetryRow, ...]:
        """The rows of broken rules of the kind "error"."""
        return tuple(self._broken("error"))

    @property
    def remarks(self) -> tuple[RetryRow, ...]:
        """The rows of broken rules of the kind "remark": a policy may break these knowingly."""
        return tuple(self._broken("remark"))

    def _broken(self, kind: str) -> Iterator[RetryRow]:
        return (row for row in self.rows if (row.outcome, row.kind) == ("broken", kind))

    def as_dict(self) -> dict[str, object]:
        """Return the report as values that JSON has."""
        return {
            "ok": self.ok,
            "calls": self.calls,
            "duration_s": round(self.duration_s, 3),
            "rows": [asdict(row) for row in self.rows],
        }

    def __str__(self) -> str:
        return "\n".join([self._head(), *self._blocks(), "", *self._rest()]).rstrip()

    def _head(self) -> str:
        told = ", ".join(
            f"{len(rows)} {what}{'' if len(rows) == 1 else 's'}"
            for what, rows in (("error", self.errors), ("remark", self.remarks))
        )
        return f"Retry policy: {told} ({self.calls} calls in {self.duration_s:.1f} s)"

    def _blocks(self) -> Iterator[str]:
        for row in (*self.errors, *self.remarks):
            yield ""
            yield f"{row.kind:<6}  {row.rule}"
            for name, field in _FIELDS:
                yield f"        {name:<8}  {getattr(row, field)}"

    def _rest(self) -> Iterator[str]:
        yield from _line("kept", [row.rule for row in self._with("kept")])
        yield from _line("left out", [row.rule for row in self._with("left out")])
        for row in self._with("not judged"):
            yield f"not judged: {row.rule} ({row.seen})"

    def _with(self, outcome: Outcome) -> Iterator[RetryRow]:
        return (row for row in self.rows if row.outcome == outcome)


def _line(what: str, names: Iterable[str]) -> Iterator[str]:
    told = ", ".join(names)
    if told:
        yield f"{what}: {told}"


class RetryPolicyError(AssertionError):
    """A policy breaks a rule of the kind "error". The text is the table of the report.

    Attributes:
        report: The report. Its `ok` is False.
    """

    def __init__(self, report: RetryReport) -> None:
        """Create the error for *report*."""
        super().__init__(f"\n{report}")
        self.report = report
