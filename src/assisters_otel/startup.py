"""`init`: from arguments and environment to a running handle.

1. Check the arguments. A wrong one is a `ValueError`.
2. Return the first handle if `init` has been called before.
3. Read the environment. A wrong variable is one warning, and costs only what it names.
4. Use the app's providers, or those of the configuration file, and build those that are missing,
   tracer and meter separately.
5. Patch the clients, and make the built providers the global ones.

A fault in the last three steps does not reach the app: the handle is inert then.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from assisters_otel import config as configs
from assisters_otel import global_providers, logger, process
from assisters_otel.api import redaction
from assisters_otel.config import InitArguments, warn_of_wrong, with_environment
from assisters_otel.fail_safe import fail_safe_but_for, own_errors
from assisters_otel.instrumentation import SWITCH, Instrumentation
from assisters_otel.semconv import environment
from assisters_otel.telemetry import Telemetry
from assisters_otel.variables import corrections, rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from assisters_otel.providers import owned_providers

_ENTRY_POINT: Final = "assisters"
"""The name of `AssistersInstrumentor` among the entry points. Source: pyproject.toml."""


def init(  # noqa: PLR0913 - the contract's signature
    service_name: str | None = None,
    *,
    endpoint: str | None = None,
    headers: Mapping[str, str] | None = None,
    protocol: str | None = None,
    hosts: Sequence[str] | None = None,
    capture_message: bool | None = None,
    key_fingerprint: bool | None = None,
    baggage: Sequence[str] | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    strict: bool = False,
) -> Telemetry:
    """Write the API's documented errors to every attempt's span and to metrics.

    Call it once, before or after clients exist, and before or after other instrumentations. A
    second call returns the first handle.

    Args:
        service_name: The service's name, for providers that `init` builds. Wins over
            ``OTEL_SERVICE_NAME``.
        endpoint: The base URL of an OTLP receiver. Wins over ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        headers: The headers for that receiver.
        protocol: ``http/protobuf`` (the default) or ``grpc`` (extra ``grpc``).
        hosts: Further hosts that are the API, such as a gateway: each
            ``host[:port][/path-prefix]`` or a base URL.
        capture_message: True if the envelope's message, masked and cut, is written to the span. It
            may quote an end user's text. Off by default.
        key_fingerprint: True if the fingerprint of the API key is recorded. On by default.
        baggage: The names of entries of the app's baggage, such as ``("tenant",)``, that become
            attributes of attempts, calls and streams, and labels of metrics.
        tracer_provider: The app's own provider, in place of the global one.
        meter_provider: The app's own provider, in place of the global one.
        strict: True if the library's own faults are raised, which are otherwise logged. For tests.

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
        key_fingerprint=key_fingerprint,
        baggage=baggage,
        strict=strict,
    )
    _check_exporters(config)
    configs.check_provider("tracer_provider", tracer_provider, "get_tracer")
    configs.check_provider("meter_provider", meter_provider, "get_meter")
    arguments = InitArguments(config, tracer_provider, meter_provider)
    with process.PROCESS.lock:
        first = cast("Telemetry | None", process.PROCESS.current)
        if first is not None and first.is_recording:
            return first
        if first is not None and first.was_uninstrumented():
            first.shutdown()  # the app has called `uninstrument`
            first = None
        if first is None:
            own_errors.start(strict=config.strict)
            first = _start(arguments) or Telemetry(arguments)
            process.PROCESS.current = first
        elif not first.arguments.is_same_as(arguments):
            logger.warning(
                "init was called before with other arguments; those hold, these do not. "
                "Call shutdown() on the first handle to start again"
            )
        return first


@fail_safe_but_for(configs.WrongArgument)
def _check_exporters(config: configs.Config) -> None:
    if config.endpoint is None and not config.headers:
        return
    from assisters_otel.providers import exporter_specs, otlp_settings  # noqa: PLC0415 - see `_build`

    exporter_specs.check(
        otlp_settings.OtlpArguments(config.endpoint, config.headers, config.protocol)
    )


@fail_safe_but_for(configs.WrongArgument)
def _start(arguments: InitArguments) -> Telemetry:
    if configs.sdk_disabled(os.environ):
        logger.info("%s is true: nothing is watched", environment.OTEL_SDK_DISABLED)
        return Telemetry(arguments)
    off = configs.disabled_instrumentations(os.environ) & {_ENTRY_POINT, "*"}
    if off:
        variable = environment.OTEL_DISABLED_INSTRUMENTATIONS
        logger.info("%s has %s: nothing is watched", variable, min(off))
        return Telemetry(arguments)
    wrong = corrections.corrections(os.environ)
    config = with_environment(arguments.config, os.environ)
    with corrections.corrected():
        return _set_up(arguments, config, wrong)


def _set_up(
    arguments: InitArguments, config: configs.Config, wrong: Sequence[corrections.Correction]
) -> Telemetry:
    found = global_providers.find(arguments, strict=config.strict)
    if found.is_disabled:
        return Telemetry(arguments)
    tracers, meters = found.tracer_provider, found.meter_provider
    reused = tuple(provider for provider in (tracers, meters) if provider is not None)
    if reused:
        logger.info(
            "recording in the application's %s; no exporter is added, and a service name or "
            "endpoint given to init is not used for it",
            " and ".join(type(provider).__name__ for provider in reused),
        )
    built = {rules.TRACES: tracers is None, rules.METRICS: meters is None}
    warn_of_wrong(
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
        instrumentation = _instrumentation(
            config,
            _first(tracers, exports and exports.tracer_provider, NoOpTracerProvider()),
            _first(meters, exports and exports.meter_provider, NoOpMeterProvider()),
        )
        telemetry = Telemetry(arguments, instrumentation, exports, reused)
    except BaseException:
        if exports is not None:
            exports.shutdown(0)
        raise
    # The handle comes first: it takes all out again that an interrupt has left half done.
    process.PROCESS.current = telemetry
    try:
        SWITCH.on(instrumentation)
        if exports is not None:
            global_providers.make_global(exports)
    except BaseException:
        telemetry.end(0)
        raise
    return telemetry


def _instrumentation(config: configs.Config, tracers: Any, meters: Any) -> Instrumentation:
    active = SWITCH.active
    is_zero_code = SWITCH.is_on
    SWITCH.off()  # zero-code has turned it on with fewer arguments
    if active is not None:
        # A configuration file may have hosts for it.
        config = config.joined(active.config)
    instrumentation = Instrumentation(config, tracers, meters)
    if not is_zero_code:
        # With zero-code the names mean OpenTelemetry's own instrumentations.
        names = configs.disabled_instrumentations(os.environ)
        for name in instrumentation.make_no_spans(names):
            logger.info(
                "%s has %s: its attempts have metrics and no HTTP spans of this library's",
                environment.OTEL_DISABLED_INSTRUMENTATIONS,
                name,
            )
    return instrumentation


def _build(
    config: configs.Config, *, traces: bool, metrics: bool
) -> owned_providers.OwnedProviders | None:
    # An app with providers of its own starts a tenth faster without these modules
    # (tests/bench/import_cost.py). So they are imported here.
    from assisters_otel.providers.build import build_one, build_providers  # noqa: PLC0415 - see above

    texts: dict[str, None] = {}
    build = partial(
        build_providers,
        service_name=config.service_name,
        endpoint=config.endpoint,
        headers=config.headers,
        protocol=config.protocol,
        warn=None if config.strict else texts.setdefault,
    )
    exports, lost = None, ""
    try:
        exports = build(traces=traces, metrics=metrics)
    except ValueError as error:
        if config.strict or isinstance(error, configs.WrongArgument):
            raise
        lost = f"no telemetry is sent: {error}"
        if traces and metrics:
            exports, lost = build_one(build, error)
    for text in (*texts, *filter(None, [lost])):
        logger.warning("%s", redaction.redact(text))
    return exports


def _first(*found: Any) -> Any:
    return next(provider for provider in found if provider is not None)
