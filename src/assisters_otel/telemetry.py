"""`init` and the handle that it returns."""

from __future__ import annotations

import os
import time
from functools import partial
from operator import is_
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from opentelemetry import metrics, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from assisters_otel import config as configs
from assisters_otel import logger, process
from assisters_otel.api import redaction
from assisters_otel.fail_safe import Guard
from assisters_otel.instrumentor import (
    AssistersInstrumentor,
    Client,
    Instrumentation,
    tell_of_wrong,
    with_environment,
)
from assisters_otel.otel_api import providers
from assisters_otel.providers import build as providers_build
from assisters_otel.providers import exporter_specs, otlp_settings, owned_providers, workers
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import environment
from assisters_otel.variables import corrections, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from typing_extensions import Self

P = TypeVar("P")


class Status(NamedTuple):
    """What `Telemetry.status` tells.

    Attributes:
        active: Whether anything is watched.
        clients: What is watched: every client that is installed, imported or not, and by
            whom its HTTP spans are made.
        not_seen: Clients of which no request is seen, whatever is switched on.
        hosts: Which hosts are watched, as ``host[:port][/path-prefix]``.
        destinations: Where telemetry goes.
        attempts: How many attempts have ended in this process.
        errors: How many of them had failed.
        last_failure: The last trouble of our own, as one line, or None.
    """

    active: bool
    clients: tuple[Client, ...]
    not_seen: tuple[str, ...]
    hosts: tuple[str, ...]
    destinations: tuple[str, ...]
    attempts: int
    errors: int
    last_failure: str | None


class _Arguments(NamedTuple):
    """What `init` was called with, to compare a second call's."""

    config: configs.Config
    capture_message: bool | None
    tracer_provider: object
    meter_provider: object

    def are_those_of(self, other: _Arguments) -> bool:
        """Return True if the same was asked for. A provider need not be comparable."""
        ours, theirs = self._providers(), other._providers()
        return self[:2] == other[:2] and all(map(is_, ours, theirs))

    def _providers(self) -> tuple[object, object]:
        return self.tracer_provider, self.meter_provider


class Telemetry:
    """What `init` switched on. A context manager: leaving it shuts down."""

    def __init__(
        self,
        arguments: _Arguments,
        guard: Guard,
        instrumentation: Instrumentation | None = None,
        exports: owned_providers.Exports | None = None,
        reused: tuple[Any, ...] = (),
    ) -> None:
        """Made by `init`.

        Args:
            arguments: What `init` was called with, to compare a second call's.
            guard: Ran `init`, and runs whatever of ours could fail.
            instrumentation: What is patched, or None: then this handle is inert.
            exports: The providers that we built, or None.
            reused: The app's own providers that we record in. Never shut down by us.
        """
        self.arguments = arguments
        self._guard = guard
        self._instrumentation = instrumentation
        self._exports = exports
        self._reused = reused
        self._hands = workers.Hands(len(providers.flushes(reused)))

    def is_over(self) -> bool:
        """Say whether what `init` patched has been taken out by somebody."""
        on = self._instrumentation
        return on is not None and AssistersInstrumentor().active is not on

    def status(self) -> Status:
        """Say what is patched, watched, sent and seen, and what went wrong."""
        on = self._instrumentation
        if on is None:
            return Status(False, (), names.NOT_SEEN, (), (), 0, 0, self._guard.last_failure)
        destinations = tuple(f"the application's {type(p).__name__}" for p in self._reused)
        if self._exports is not None:
            destinations += self._exports.destinations
        is_active = process.here.current is self and not self.is_over()
        return Status(
            active=is_active,
            clients=on.clients() if is_active else (),
            not_seen=names.NOT_SEEN,
            hosts=tuple(map(str, on.config.hosts)),
            destinations=destinations,
            attempts=on.observer.attempts,
            errors=on.observer.errors,
            last_failure=self._guard.last_failure,
        )

    def flush(self, timeout_s: float = process.END_S) -> bool:
        """Send what is queued.

        Args:
            timeout_s: Seconds to wait for it, at most. Infinity is no limit.

        Returns:
            Whether it was done in time, and the collector has taken all of it.

        Raises:
            ValueError: *timeout_s* is no number of 0 or more.
        """
        if not isinstance(timeout_s, (int, float)) or not timeout_s >= 0:
            raise ValueError(f"timeout_s is a number of seconds, not {timeout_s!r}. Write flush(5)")
        return bool(self._guard(self._flush, timeout_s))

    def flush_at_end(self, timeout_s: float) -> bool:
        """Send what is queued, as `flush` does, and do not wait long for who is known to be dead.

        Args:
            timeout_s: Seconds to wait for it, at most.

        Returns:
            True if it was done in time, and the collector has taken all of it.
        """
        return bool(self._guard(self._flush, timeout_s, at_end=True))

    @property
    def has_app_providers(self) -> bool:
        """True if this records in a provider of the app's own."""
        return bool(self._reused)

    def _flush(self, timeout_s: float, *, at_end: bool = False) -> bool:
        if self._instrumentation is not None:
            self._guard(self._instrumentation.observer.collect)
        until_s = time.monotonic() + workers.limited(timeout_s)
        begun = self._hands.begin(providers.flushes(self._reused))
        done = self._exports is None or self._exports.flush(timeout_s, at_end=at_end)
        return workers.in_time(begun, max(until_s - time.monotonic(), 0)) and done

    def shutdown(self) -> None:
        """Take every patch out, send the rest and end the providers that we built.

        The app's own providers go on. Called again, it does nothing.
        """
        self.end(process.END_S)

    def end(self, timeout_s: float) -> None:
        """Do what `shutdown` does, and wait *timeout_s* seconds for it at most."""
        with process.here.lock:
            if process.here.current is not self:
                return
            process.here.current = None
            self._guard(self._uninstrument)
            self._guard(self._end_exports, timeout_s)
            self._guard(self._hands.rest)

    def _uninstrument(self) -> None:
        if self._instrumentation is not None and not self.is_over():
            AssistersInstrumentor().uninstrument()

    def _end_exports(self, timeout_s: float) -> None:
        if self._exports is not None:
            for provider in (self._exports.tracer_provider, self._exports.meter_provider):
                if provider is not None:
                    process.here.end(provider)
            self._exports.shutdown(timeout_s)

    def forked(self) -> None:
        """Begin anew in a forked child: own counts, own metrics, a flush at its exit."""
        if self._instrumentation is None:
            return
        ours = self._exports
        renew = None if ours is None or ours.meter_provider is None else self._renew_metrics
        self._instrumentation.forked(renew)

    def _renew_metrics(self) -> None:
        if self._exports is not None and self._instrumentation is not None:
            with corrections.corrected():
                self._instrumentation.record_in(self._exports.renew_metrics())

    def __repr__(self) -> str:
        told = self.status()
        state = "active" if told.active else "inactive"
        return f"<Telemetry {', '.join((state, f'{len(told.hosts)} hosts', *told.destinations))}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()


def init(  # noqa: PLR0913 - the contract's signature
    service_name: str | None = None,
    *,
    endpoint: str | None = None,
    headers: Mapping[str, str] | None = None,
    protocol: str | None = None,
    hosts: Sequence[str] | None = None,
    capture_message: bool | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    strict: bool = False,
) -> Telemetry:
    """Put the API's documented errors on every attempt's span and on metrics.

    Call it once, before or after clients exist, and before or after other
    instrumentations. A second call returns the first handle.

    Args:
        service_name: For providers that we build; wins over ``OTEL_SERVICE_NAME``.
        endpoint: The base URL of an OTLP receiver; wins over
            ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        headers: For that receiver.
        protocol: ``http/protobuf`` (the default) or ``grpc`` (extra ``grpc``).
        hosts: Further hosts that are the API, such as a gateway: each
            ``host[:port][/path-prefix]`` or a base URL.
        capture_message: Whether the envelope's message, masked and cut, goes on the
            span. It may quote what somebody typed. Off by default.
        tracer_provider: The app's own, in place of the global one.
        meter_provider: The app's own, in place of the global one.
        strict: Raise our own trouble, which is otherwise logged. For tests.

    Returns:
        A handle with `Telemetry.status`, `Telemetry.flush`, `Telemetry.shutdown`.

    Raises:
        ValueError: An argument is wrong; the message says what to write instead.
    """
    config = configs.from_arguments(
        service_name=service_name,
        endpoint=endpoint,
        headers=headers,
        protocol=protocol,
        hosts=hosts,
        capture_message=capture_message,
        strict=strict,
    )
    guard = Guard(strict=config.strict, passing=configs.WrongArgument)
    guard(
        exporter_specs.check,
        otlp_settings.Arguments(config.endpoint, config.headers, config.protocol),
    )
    configs.check_provider("tracer_provider", tracer_provider, "get_tracer")
    configs.check_provider("meter_provider", meter_provider, "get_meter")
    arguments = _Arguments(config, capture_message, tracer_provider, meter_provider)
    with process.here.lock:
        first = process.here.current
        if first is not None and first.is_over():
            first.shutdown()  # somebody has uninstrumented it
            first = None
        if first is None:
            first = guard(_start, arguments, guard) or Telemetry(arguments, guard)
            process.here.current = first
        elif not first.arguments.are_those_of(arguments):
            logger.warning(
                "init was called before with other arguments; those hold, these do not. "
                "Call shutdown() on the first handle to start again"
            )
        return first


def _start(arguments: _Arguments, guard: Guard) -> Telemetry:
    if configs.sdk_disabled(os.environ):
        logger.info("%s is true: nothing is watched", environment.OTEL_SDK_DISABLED)
        return Telemetry(arguments, guard)
    wrong = corrections.corrections(os.environ)
    config = with_environment(
        arguments.config,
        os.environ,
        capture_message_given=arguments.capture_message is not None,
    )
    with corrections.corrected():
        return _begin(arguments, config, guard, wrong)


def _begin(
    arguments: _Arguments,
    config: configs.Config,
    guard: Guard,
    wrong: Sequence[corrections.Correction],
) -> Telemetry:
    # Not by their truth, which a provider with a length says otherwise.
    tracers: Any = arguments.tracer_provider
    if tracers is None:
        tracers = _usable(trace.get_tracer_provider())
    meters: Any = arguments.meter_provider
    if meters is None:
        meters = _usable(metrics.get_meter_provider())
    reused = tuple(provider for provider in (tracers, meters) if provider is not None)
    if reused:
        logger.info(
            "recording in the application's %s; no exporter is added, and a service name or "
            "endpoint given to init is not used for it",
            " and ".join(type(provider).__name__ for provider in reused),
        )
    built = {rules.TRACES: tracers is None, rules.METRICS: meters is None}
    tell_of_wrong(
        wrong, {signal for signal, is_built in built.items() if is_built}, strict=config.strict
    )
    if os.environ.get(environment.OTEL_PYTHON_LOGGER_CONFIGURATOR):
        logger.info(
            "%s is not used: init makes no loggers", environment.OTEL_PYTHON_LOGGER_CONFIGURATOR
        )
    exports = None
    if tracers is None or meters is None:
        exports = _build(config, traces=tracers is None, metrics=meters is None)
    try:
        instrumentation = _instrument(
            config,
            guard,
            _first(tracers, exports and exports.tracer_provider, NoOpTracerProvider()),
            _first(meters, exports and exports.meter_provider, NoOpMeterProvider()),
        )
        if exports is not None:
            _make_global(exports)
    except BaseException:
        if exports is not None:
            exports.shutdown(0)
        raise
    return Telemetry(arguments, guard, instrumentation, exports, reused)


def _instrument(config: configs.Config, guard: Guard, tracers: Any, meters: Any) -> Instrumentation:
    instrumentor = AssistersInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()  # by opentelemetry-instrument, with fewer wishes than these
    instrumentation = Instrumentation(config, guard, tracers, meters)
    instrumentor.instrument(instrumentation=instrumentation)
    return instrumentation


def _build(
    config: configs.Config, *, traces: bool, metrics: bool
) -> owned_providers.Exports | None:
    told: dict[str, None] = {}
    build = partial(
        providers_build.build,
        service_name=config.service_name,
        endpoint=config.endpoint,
        headers=config.headers,
        protocol=config.protocol,
        tell=None if config.strict else told.setdefault,
    )
    exports, lost = None, ""
    try:
        exports = build(traces=traces, metrics=metrics)
    except ValueError as error:
        if config.strict or isinstance(error, configs.WrongArgument):
            raise
        lost = f"no telemetry is sent: {error}"
        if traces and metrics:
            exports, lost = _build_one(build, error)
    for text in (*told, *filter(None, [lost])):
        logger.warning("%s", redaction.mask(text))
    return exports


def _build_one(
    build: Callable[..., owned_providers.Exports], wrong: ValueError
) -> tuple[owned_providers.Exports | None, str]:
    """Build for one signal alone: what is wrong of the other does not cost this one.

    Args:
        build: As `build.build`.
        wrong: Why there is nothing for both.

    Returns:
        What was built, if anything, and what is lost and why.
    """
    try:
        return build(traces=True, metrics=False), f"no metrics are sent: {wrong}"
    except ValueError as error:
        wrong = error
    try:
        return build(traces=False, metrics=True), f"no spans are sent: {wrong}"
    except ValueError as error:
        reasons = dict.fromkeys((str(wrong), str(error)))
        return None, f"no telemetry is sent: {'. '.join(reasons)}"


def _usable(provider: P) -> P | None:
    """Give the global provider, or None if it is a stand-in or one that we shut down."""
    is_ended = process.here.has_ended(provider)
    return None if is_ended or providers.is_stand_in(provider) else provider


def _first(*found: Any) -> Any:
    return next(provider for provider in found if provider is not None)


_KINDS: Final = {"tracer": "TracerProvider", "meter": "MeterProvider"}


def _make_global(exports: owned_providers.Exports) -> None:
    replaced, made = [], []
    if exports.tracer_provider is not None:
        if process.here.has_ended(trace.get_tracer_provider()):
            replaced.append("tracer")
        else:
            made.append("tracer")
            trace.set_tracer_provider(exports.tracer_provider)
    if exports.meter_provider is not None:
        if process.here.has_ended(metrics.get_meter_provider()):
            replaced.append("meter")
        else:
            made.append("meter")
            metrics.set_meter_provider(exports.meter_provider)
    if made:
        # Said beforehand: OpenTelemetry's own lines, which these quote, name nobody.
        logger.info(
            "init has set the global %s provider, which can be set once. One that the application "
            "sets later is refused (%s) and gets no spans or metrics of instrumentations. Set it "
            "before init, or give init %s",
            " and ".join(made),
            ", ".join(f"Overriding of current {_KINDS[what]} is not allowed" for what in made),
            " and ".join(f"{what}_provider=" for what in made),
        )
    if replaced:
        logger.info(
            "the global %s provider, which was shut down, cannot be replaced: "
            "new ones serve what init watches, but not the app's own spans and metrics",
            " and ".join(replaced),
        )
