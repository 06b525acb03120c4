"""What the SDK's own calls cost of each row, whoever makes them: python tests/bench/floors.py.

For each row of the table of costs, one request's calls of OpenTelemetry's API are recorded as the
library makes them where the span is its own. They are made again by themselves, with the same
values made beforehand. No library that tells the same by the public API costs less.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from instructions import count_all, counted, sender
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import Span, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from assisters_otel.semconv import metrics as metric_names
from cases import API, CASES, OTEL, Case, Spans, switched_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WARM_UP = 8
_ALONE = tuple(case for case in CASES if case.name.endswith(", alone") and case.url == API)
_UNIT = (CASES[0], CASES[OTEL])
_WRITES = ("set_attributes", "set_attribute", "set_status", "add_link", "add_event", "end")

Step = tuple[str, Any, tuple[Any, ...]]
"""The name of a method; the number of its span or the name of its instrument; its arguments."""


class _Recording:
    """The calls of OpenTelemetry's API that the library makes, from `start` on."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._numbers: dict[int, int] = {}

    def start(self, patches: ExitStack) -> None:
        wrapped = {
            Tracer: {"start_span": self._starting(Tracer.start_span)},
            TraceContextTextMapPropagator: {
                "inject": self._injecting(TraceContextTextMapPropagator.inject)
            },
            Span: {name: self._writing(name, getattr(Span, name)) for name in _WRITES},
            Histogram: {"record": self._recording("record", Histogram.record)},
            Counter: {"add": self._recording("add", Counter.add)},
        }
        for kind, methods in wrapped.items():
            for name, method in methods.items():
                patches.enter_context(mock.patch.object(kind, name, method))

    def _starting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def start_span(
            tracer: Any, name: str, context: Any = None, kind: Any = None, attributes: Any = None
        ) -> Any:
            span = original(tracer, name, context, kind, attributes)
            number = self._numbers[id(span)] = len(self._numbers)
            self.steps.append(("start_span", number, (name, None, kind, attributes)))
            return span

        return start_span

    def _injecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def inject(propagator: Any, *args: Any) -> None:
            original(propagator, *args)
            self.steps.append(("inject", None, ()))

        return inject

    def _writing(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def write(span: Any, *args: Any) -> Any:
            # Some of these methods call each other.
            if sys._getframe(1).f_globals["__name__"].startswith("assisters_otel"):
                self.steps.append((name, self._numbers[id(span)], args))
            return original(span, *args)

        return write

    def _recording(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def record(instrument: Any, value: Any, attributes: Any, *more: Any) -> Any:
            self.steps.append((name, instrument.name, (value, dict(attributes))))
            return original(instrument, value, attributes, *more)

        return record


def _recorded(case: Case) -> list[Step]:
    """Return the calls that the library makes for one request."""
    recording = _Recording()
    with switched_on(case) as bench, ExitStack() as patches:
        bench.send(_WARM_UP)
        recording.start(patches)
        # The last of the plain requests has a body that none before it had.
        bench.send(1 if case.sdk else _WARM_UP + 1)
    steps = recording.steps
    starts = [number for number, (name, _, _) in enumerate(steps) if name == "start_span"]
    return steps if case.sdk else steps[starts[-1] :]


class _Replay:
    """Makes the calls of a recording again."""

    def __init__(self, steps: list[Step]) -> None:
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(Spans())
        self._tracer, self._steps = tracers.get_tracer("floor"), steps
        self._propagator = TraceContextTextMapPropagator()
        meter = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False).get_meter("floor")
        bounds = {"explicit_bucket_boundaries_advisory": metric_names.DURATION_BOUNDARIES}
        made = {"record": partial(meter.create_histogram, **bounds), "add": meter.create_counter}
        self._instruments = {key: made[name](key) for name, key, _ in steps if name in made}

    def send(self, requests: int) -> None:
        for _ in range(requests):
            self._send_one()

    def _send_one(self) -> None:
        spans: dict[int, Any] = {}
        for name, key, args in self._steps:
            if name == "start_span":
                span = self._tracer.start_span(*args)
                spans[key] = span, context.attach(trace.set_span_in_context(span))
            elif name == "inject":
                self._propagator.inject({}, context.get_current())
            elif name in {"record", "add"}:
                getattr(self._instruments[key], name)(*args)
            else:
                span, token = spans[key]
                if name == "end":
                    context.detach(token)
                getattr(span, name)(*args)


@contextmanager
def _replayed(steps: list[Step]) -> Iterator[Callable[[int], object]]:
    yield _Replay(steps).send


def main() -> None:
    """Write the table: each row's floor, in the unit of the table of costs."""
    *floors, bare, theirs = counted(__file__, len(_ALONE) + len(_UNIT))
    lines = [f"{'row':30} {'k instr':>9} {'floor':>6} {'goal':>6}"]
    for case, floor in zip(_ALONE, floors, strict=True):
        ratio = floor / (theirs - bare) / (case.sdk or 1)
        lines.append(f"{case.name:30} {floor / 1e3:9.1f} {ratio:6.3f} {case.goal:>6}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        senders = [partial(_replayed, _recorded(case)) for case in _ALONE]
        count_all([*senders, *(partial(sender, case) for case in _UNIT)], Path(sys.argv[1]))
    else:
        main()
