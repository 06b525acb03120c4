"""The running count of `watch`: the line at the bottom. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from assisters_otel.cli import span_text

if TYPE_CHECKING:
    from assisters_otel.cli.watch.calls import Shown

TOKENS: Final = {"input": "gen_ai.usage.input_tokens", "output": "gen_ai.usage.output_tokens"}

_MAX_CODES: Final = 100
"""Error codes that are counted each for itself. The API has fifteen; a hostile server has more."""

_OTHER: Final = "others"


class Counts:
    """A running count."""

    def __init__(self) -> None:
        """Start all counts at 0."""
        self.calls = 0
        self.failed = 0
        self.retries = 0
        self.errors: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.other_traces = 0
        self.hidden = 0

    def add(self, shown: Shown) -> None:
        """Count one more."""
        if shown.other is not None:
            self.other_traces += 1
            return
        self.calls += 1
        self.failed += shown.has_failed
        if shown.has_failed:
            name = span_text.error_name(shown.head.attributes) or _OTHER
            known = name in self.errors or len(self.errors) < _MAX_CODES
            self.errors[name if known else _OTHER] += 1
        self.retries += shown.retries
        for kind, name in TOKENS.items():
            count = shown.head.attributes.get(name)
            if isinstance(count, int) and count > 0:
                self.tokens[kind] += count

    def __str__(self) -> str:
        told = [_plural(self.calls, "call", "calls"), f"{self.failed} failed"]
        if self.errors:
            told[-1] += f" ({', '.join(f'{name} {n}' for name, n in self.errors.most_common())})"
        told.append(_plural(self.retries, "retry", "retries"))
        if self.tokens:
            told.append(f"{self.tokens['input']} + {self.tokens['output']} tokens")
        if self.other_traces:
            told.append(_plural(self.other_traces, "other trace", "other traces"))
        if self.hidden:
            told.append(f"{self.hidden} not shown")
        return ", ".join(told)


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
