"""`recorded`: the spans, metric points and log lines of what happens inside, for an app's tests.

All recordings that are open at a time share one pair of providers in memory and one set of patches.
Each has a metric reader of its own. So recordings nest, overlap, and end in any order, and what an
inner one gets the outer one gets too.

While one is open, it takes the place of what `init` has switched on: its patches are out, its
providers go on. At the end the very same is switched on again.

An app with HTTP instrumentation of its own has its HTTP spans in its own provider. If that is one
of the SDK's and the global one, it gets a span processor that hands them on. The SDK cannot take a
processor out again; outside a recording it does nothing.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from assisters_otel import config as configs
from assisters_otel import process
from assisters_otel.config import Config
from assisters_otel.fail_safe import own_errors
from assisters_otel.hosts import environment_hosts
from assisters_otel.instrumentation import Instrumentation
from assisters_otel.instrumentor import AssistersInstrumentor
from assisters_otel.telemetry import Telemetry
from assisters_otel.testing.recorded_telemetry import Recorded
from assisters_otel.variables import corrections
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from assisters_otel.testing.server import FakeApi

LOOPBACK: Final = ("127.0.0.1/v1", "localhost/v1")
"""What a recording watches beside the API: any `FakeApi`, whatever its port."""


class AssistersTelemetry(NamedTuple):
    """What the fixture ``assisters_telemetry`` gives.

    Attributes:
        api: A started server, new for each test.
        recorded: What was recorded of the test so far.
    """

    api: FakeApi
    recorded: Recorded


@contextmanager
def recorded(*, hosts: Sequence[str] = ()) -> Iterator[Recorded]:
    """Record spans, metric points and log lines of requests to the API, in memory.

    ::

        with FakeApi() as api, recorded() as seen:
            api.answers("rate_limit_exceeded")
            my_app.ask(base_url=api.url)
        assert seen.attempts[0].attributes["error.code"] == "rate_limit_exceeded"

    It works whatever `init`, the app's providers, its loggers and the variables say. Nothing that
    this library records inside is exported. Meanwhile `init` returns the recording's handle, and
    what `init` returned before is switched off. What other threads do meanwhile is recorded too.

    Args:
        hosts: As `init` has them, beside the API, the variables' and every `FakeApi`.

    Raises:
        ValueError: A host is none; the message says what to write.
    """
    made = Recorded(configs.from_arguments(hosts=hosts), _recording.collect)
    with ExitStack() as logs:
        _recording.begin(made, logs)
        try:
            yield made
        finally:
            _recording.end(made)


class _Recording:
    """What all open recordings share. Its lock is the one that `init` has."""

    def __init__(self) -> None:
        self._open: tuple[Recorded, ...] = ()
        self._base = Config()
        self._instrumentation: Instrumentation | None = None
        self._before: Instrumentation | None = None
        self._was_init = self._was_strict = False
        self._meters: MeterProvider | None = None
        self._handed_on: WeakIdentityDict[bool] = WeakIdentityDict()

    def begin(self, one: Recorded, logs: ExitStack) -> None:
        """Open a recording."""
        with process.PROCESS.lock:
            if self._meters is None or self._instrumentation is None:
                self._meters, self._instrumentation = self._switch_on()
            self._hand_on(trace.get_tracer_provider())
            one.open(self._meters, logs)
            self._open = (*self._open, one)
            self._watch(self._instrumentation)

    def end(self, one: Recorded) -> None:
        """Close a recording; the last one puts back what was there before the first."""
        with process.PROCESS.lock:
            last, meters = self._open == (one,), self._meters
            if last:
                self._switch_off()  # which ends what is open, and sums the log up
            self.collect()
            if meters is not None:
                one.close(meters)
            self._open = tuple(other for other in self._open if other is not one)
            if self._instrumentation is not None:
                self._watch(self._instrumentation)
            if last:
                self._switch_on_again()

    def collect(self) -> None:
        """Do what was put off inside the garbage collector."""
        instrumentation = self._instrumentation
        if instrumentation is not None:
            instrumentation.observer.collect()

    def add(self, span: ReadableSpan) -> None:
        """Hand a span that has ended to every open recording."""
        for one in self._open:
            one.add(span)

    def _switch_on(self) -> tuple[MeterProvider, Instrumentation]:
        with corrections.without_opentelemetry_variables():
            resource = Resource.get_empty()
            tracers = TracerProvider(
                sampler=ALWAYS_ON,
                resource=resource,
                shutdown_on_exit=False,
                span_limits=SpanLimits(),
            )
            meters = MeterProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(_Spans())
        self._handed_on.put(tracers, True)  # an app may make it global, by what it finds
        instrumentor = AssistersInstrumentor()
        self._before = instrumentor.active
        self._base = _config(self._before)
        made = Instrumentation(self._base, tracers, meters)
        self._was_strict = own_errors.strict
        if self._before is not None:
            instrumentor.uninstrument()
        else:
            own_errors.strict = False  # what a handle that is shut down has left
        instrumentor.instrument(instrumentation=made)
        arguments = configs.InitArguments(self._base, None, None, None)
        handle = Telemetry(arguments, made)
        handle.is_recording = True
        process.PROCESS.suspended = process.PROCESS.current
        self._was_init = process.PROCESS.current is not None
        process.PROCESS.current = handle
        return meters, made

    def _switch_off(self) -> None:
        instrumentor = AssistersInstrumentor()
        if instrumentor.active is self._instrumentation:  # the test may have taken it out
            instrumentor.uninstrument()

    def _switch_on_again(self) -> None:
        before, self._before = self._before, None
        handle, process.PROCESS.suspended = process.PROCESS.suspended, None
        self._instrumentation = self._meters = None
        own_errors.strict = self._was_strict
        process.PROCESS.current = handle
        if before is not None and (handle is not None or not self._was_init):
            AssistersInstrumentor().instrument(instrumentation=before)

    def _watch(self, instrumentation: Instrumentation) -> None:
        hosts = (*self._base.hosts, *(host for one in self._open for host in one.config.hosts))
        instrumentation.watch(replace(self._base, hosts=tuple(dict.fromkeys(hosts))))

    def _hand_on(self, provider: object) -> None:
        """Have a provider of the app's hand on the spans of its own HTTP instrumentation."""
        add = getattr(provider, "add_span_processor", None)
        if callable(add) and self._handed_on.get(provider) is None:
            self._handed_on.put_for_ever(provider, True)
            add(_Spans())


class _Spans(SpanProcessor):
    """Hands on what ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Hand a span to the open recordings, if it is sampled."""
        _recording.add(span)


_recording: Final = _Recording()


def _config(before: Instrumentation | None) -> Config:
    """Return what a recording goes by: what the app has said before, or else the variables.

    A wrong variable is warned of by `init`, and is as if it were not set.
    """
    hosts, _ = environment_hosts(os.environ)
    told = configs.from_arguments(hosts=LOOPBACK)
    if before is not None:
        return replace(before.config, strict=False, hosts=(*before.config.hosts, *told.hosts))
    capture_message = False
    with suppress(ValueError):
        capture_message = configs.environment_capture_message(os.environ)
    return replace(
        told,
        hosts=(*told.hosts, *hosts),
        capture_message=capture_message,
        captures_headers=configs.environment_captures_headers(os.environ),
    )
