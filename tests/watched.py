"""What `watch` makes of the spans that a test has kept: by OTLP, as an exporter sends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from assisters_otel.cli.watch import otlp
from assisters_otel.cli.watch.advice import advice
from assisters_otel.cli.watch.calls import Calls

if TYPE_CHECKING:
    from assisters_otel.cli.watch.calls import Shown
    from memory import Memory


def shown(memory: Memory) -> list[Shown]:
    """Return what `watch` would show of the spans."""
    store = Calls()
    store.add(otlp.traces(encode_spans(memory.spans()).SerializeToString(), is_json=False), 0)
    return store.take(0, all_of_them=True)


def advised(memory: Memory) -> str | None:
    """Return the advice for the last failure."""
    return [advice(one) for one in shown(memory) if one.has_failed][-1]
