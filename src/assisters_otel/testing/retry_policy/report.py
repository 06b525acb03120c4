"""What `check_retries` has found."""

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
    """What became of one rule.

    Attributes:
        rule: Its name, as `leave_out` takes it.
        kind: ``"error"`` or ``"remark"``: what it is if it is broken.
        outcome: ``"kept"``, ``"broken"``, ``"left out"``, or ``"not judged"`` where the call gave
            no occasion to.
        expected: What a good policy does.
        seen: What this one did.
        advice: What to do about it.
        source: Where the documentation says so.
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
    """What `check_retries` has found: a row for each rule. As text, the table.

    Attributes:
        rows: In the order of the rules.
        calls: How many calls were played.
        duration_s: How long that took.
    """

    rows: tuple[RetryRow, ...]
    calls: int
    duration_s: float

    @property
    def ok(self) -> bool:
        """True if no error was found; there may be remarks."""
        return not self.errors

    @property
    def errors(self) -> tuple[RetryRow, ...]:
        """The broken rules that must not be."""
        return tuple(self._broken("error"))

    @property
    def remarks(self) -> tuple[RetryRow, ...]:
        """The broken rules that one may break knowingly."""
        return tuple(self._broken("remark"))

    def _broken(self, kind: str) -> Iterator[RetryRow]:
        return (row for row in self.rows if (row.outcome, row.kind) == ("broken", kind))

    def as_dict(self) -> dict[str, object]:
        """Return all of it as what JSON has."""
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
    """The policy breaks a rule that it must not break. Its text is the table.

    Attributes:
        report: What was found; its `RetryReport.ok` is False.
    """

    def __init__(self, report: RetryReport) -> None:
        """Tell of a report."""
        super().__init__(f"\n{report}")
        self.report = report
