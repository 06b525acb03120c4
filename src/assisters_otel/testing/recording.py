"""`recorded`: the spans, metric points and log lines of what happens inside, for an app's tests.

All open recordings share one pair of providers in memory, and one set of patches. Each recording
has a metric reader of its own. So recordings nest, overlap and end in any order, and an outer
recording gets all that an inner one gets.

An open recording stands in for the instrumentation that `init` has switched on. The patches of that
instrumentation are taken out, and its providers go on. At the end the same instrumentation starts
again. A new one would register its gauges a second time with the app's meter provider
(test_a_hundred_recordings_leave_no_thread_no_instrument_and_no_callback).

An app with HTTP instrumentation of its own has the HTTP spans in its own provider. If that is the
global one and the SDK's, it gets a span processor that copies its spans into the recordings. The
SDK has no way to remove a processor. Outside a recording the processor does nothing.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from assisters_otel import config as configs
from assisters_otel import process
from assisters_otel.config import Config
from assisters_otel.fail_safe import own_errors
from assisters_otel.instrumentation import SWITCH, Instrumentation
from assisters_otel.records import Record
from assisters_otel.telemetry import Telemetry
from assisters_otel.testing.recorded_telemetry import Recorded
from assisters_otel.variables import corrections
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from assisters_otel.testing.server import FakeApi

LOOPBACK: Final = ("127.0.0.1/v1", "localhost/v1")
"""The hosts that a recording watches beside the API: each `FakeApi`, on any port."""


class AssistersTelemetry(Record):
    """The value of the fixture ``assisters_telemetry``.

    Attributes:
        api: A started server, new for each test.
        recorded: The telemetry of the test so far.
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

    The state of the process makes no difference: an earlier `init`, providers, loggers, variables.
    The library exports nothing of what it records inside. Meanwhile `init` returns the recording's
    handle, and the handle that it returned before is inactive. Other threads are recorded too.

    Args:
        hosts: Further hosts, as `init` takes them. The API's hosts, those of the variables and each
            `FakeApi` are watched anyway.

    Raises:
        ValueError: A host is malformed; the message says what to write.
    """
    made = Recorded(configs.from_arguments(hosts=hosts), _recording.collect)
    with ExitStack() as logs:
        _recording.begin(made, logs)
        try:
            yield made
        finally:
            _recording.end(made)


class _Recording:
    """The state that all open recordings share, under the lock of `init`."""

    def __init__(self) -> None:
        self._open: tuple[Recorded, ...] = ()
        self._base = Config()
        self._instrumentation: Instrumentation | None = None
        self._before: Instrumentation | None = None
        self._was_init = self._was_strict = False
        self._handle: Telemetry | None = None
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
        """Close a recording. The last one restores the state from before the first."""
        with process.PROCESS.lock:
            last, meters = self._open == (one,), self._meters
            if last:
                self._switch_off()  # which ends what is open, and sums the log up
            self.collect()
            if meters is not None:
                one.close(meters)
            self._open = tuple(other for other in self._open if other is not one)
            if last:
                self._switch_on_again()
            elif self._instrumentation is not None:
                self._watch(self._instrumentation)

    def collect(self) -> None:
        """Run the steps that were put off inside the garbage collector."""
        instrumentation = self._instrumentation
        if instrumentation is not None:
            instrumentation.recorder.deferred.run_all()

    def add(self, span: ReadableSpan) -> None:
        """Add a span that has ended to each open recording."""
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
        self._before = SWITCH.active
        self._base = _config(self._before)
        made = Instrumentation(self._base, tracers, meters)
        self._was_strict = own_errors.strict
        if self._before is not None:
            SWITCH.off()
        else:
            own_errors.strict = False  # what a handle that is shut down has left
        SWITCH.on(made)
        arguments = configs.InitArguments(self._base, None, None)
        handle = Telemetry(arguments, made)
        handle.is_recording = True
        handle.suspended = cast("Telemetry | None", process.PROCESS.current)
        self._was_init = handle.suspended is not None
        self._handle = process.PROCESS.current = handle
        return meters, made

    def _switch_off(self) -> None:
        if SWITCH.active is self._instrumentation:  # the test may have taken it out
            SWITCH.off()

    def _switch_on_again(self) -> None:
        before, self._before = self._before, None
        handle = None if self._handle is None else self._handle.suspended
        self._instrumentation = self._meters = self._handle = None
        own_errors.strict = self._was_strict
        process.PROCESS.current = handle
        if before is not None and (handle is not None or not self._was_init):
            SWITCH.on(before)

    def _watch(self, instrumentation: Instrumentation) -> None:
        hosts = (*self._base.hosts, *(host for one in self._open for host in one.config.hosts))
        instrumentation.watch(replace(self._base, hosts=tuple(dict.fromkeys(hosts))))

    def _hand_on(self, provider: object) -> None:
        """Copy the spans of the app's provider, as those of its HTTP instrumentation."""
        add = getattr(provider, "add_span_processor", None)
        if callable(add) and self._handed_on.get(provider) is None:
            self._handed_on.put_for_ever(provider, True)
            add(_Spans())


class _Spans(SpanProcessor):
    """Copies each span that ends into the open recordings."""

    def on_end(self, span: ReadableSpan) -> None:
        """Add a span to the open recordings."""
        _recording.add(span)


_recording: Final = _Recording()


def _config(before: Instrumentation | None) -> Config:
    """Return the configuration of a recording: the app's, or without one that of the variables.

    `init` warns of a malformed variable. Here it is treated as absent.
    """
    told = configs.from_arguments(hosts=LOOPBACK)
    if before is not None:
        return replace(before.config, strict=False, hosts=(*before.config.hosts, *told.hosts))
    config, _ = configs.read_environment(told, os.environ)
    return config
