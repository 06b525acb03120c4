"""The global providers: those that `init` uses, and those that it sets.

For each signal `init` uses the provider of its arguments, else the app's global one, else the one
that the file in ``OTEL_CONFIG_FILE`` describes. Otherwise it builds one (`startup`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeVar, cast

from opentelemetry import metrics, trace

from assisters_otel import config as configs
from assisters_otel import logger, process
from assisters_otel.otel_api import providers
from assisters_otel.records import Record
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from assisters_otel.providers.owned_providers import OwnedProviders

P = TypeVar("P")

_KINDS: Final = {"tracer": "TracerProvider", "meter": "MeterProvider"}
_FOR_BUILT: Final = ("service_name", "endpoint", "headers", "protocol")
"""The arguments of `init` that only the providers which it builds have a use for."""

_VARIABLE: Final = environment.OTEL_CONFIG_FILE


class Found(Record):
    """The providers that `init` uses and has not built.

    Attributes:
        tracer_provider: The provider for spans, or None if there is none.
        meter_provider: The provider for metrics, or None if there is none.
        is_disabled: True if the configuration file switches OpenTelemetry off.
    """

    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    is_disabled: bool = False


def find(arguments: configs.InitArguments, *, strict: bool) -> Found:
    """Return the providers that `init` uses, after those of the configuration file are set.

    Args:
        arguments: The arguments of `init`.
        strict: True to raise what is wrong with the file. Otherwise a warning is logged.

    Raises:
        ValueError: The file cannot be used, and *strict* is true.
    """
    found = _given_or_global(arguments)
    path = configs.config_file(os.environ)
    if path is None or _has_both(arguments):
        return found
    if found.tracer_provider is None or found.meter_provider is None:
        if _apply(path, found, strict=strict):
            return Found(None, None, is_disabled=True)
        found = _given_or_global(arguments)
    unused = [name for name in _FOR_BUILT if getattr(arguments.config, name) is not None]
    if unused and found.tracer_provider is not None and found.meter_provider is not None:
        logger.warning(
            "%s is set: %s, given to init, %s not used. Write that into the file",
            _VARIABLE,
            " and ".join(unused),
            "are" if unused[1:] else "is",
        )
    return found


def _has_both(arguments: configs.InitArguments) -> bool:
    return arguments.tracer_provider is not None and arguments.meter_provider is not None


def _given_or_global(arguments: configs.InitArguments) -> Found:
    # Compared with None: a provider that has a length may be false.
    tracers, meters = arguments.tracer_provider, arguments.meter_provider
    return Found(
        _reusable(trace.get_tracer_provider())
        if tracers is None
        else cast("TracerProvider", tracers),
        _reusable(metrics.get_meter_provider())
        if meters is None
        else cast("MeterProvider", meters),
    )


def _reusable(provider: P) -> P | None:
    """Return the global provider, or None if it is a stand-in, or the library has shut it down."""
    is_ended = process.PROCESS.was_shut_down(provider)
    return None if is_ended or providers.is_stand_in(provider) else provider


def _apply(path: str, found: Found, *, strict: bool) -> bool:
    """Set the global providers of the file, and return True if the file switches all off.

    A global provider that the library has shut down cannot be replaced.
    """
    # Who has no such file starts without these modules (tests/bench/import_cost.py).
    from opentelemetry import _logs  # noqa: PLC0415 - see above

    from assisters_otel.providers import config_file  # noqa: PLC0415 - see above

    needed = {
        config_file.TRACES: found.tracer_provider is None and trace.get_tracer_provider(),
        config_file.METRICS: found.meter_provider is None and metrics.get_meter_provider(),
        # With the variable OpenTelemetry loads a provider, and raises for a wrong name.
        config_file.LOGS: environment.OTEL_PYTHON_LOGGER_PROVIDER not in os.environ
        and _logs.get_logger_provider(),
    }
    wanted = {part for part, now in needed.items() if now and providers.is_stand_in(now)}
    try:
        file = config_file.ConfigFile(path)
    except ValueError as error:
        texts = [f"{error}. {config_file.INSTEAD}"]
    else:
        if file.is_disabled:
            logger.info("the file in %s is disabled: nothing is watched", _VARIABLE)
            return True
        texts = file.apply(wanted)
    for text in texts:
        if strict:
            raise ValueError(text)
        logger.warning("%s", text)
    return False


def make_global(exports: OwnedProviders) -> None:
    """Set the providers that `init` has built, and log what that means for the app."""
    replaced, made = [], []
    if exports.tracer_provider is not None:
        if process.PROCESS.was_shut_down(trace.get_tracer_provider()):
            replaced.append("tracer")
        else:
            made.append("tracer")
            trace.set_tracer_provider(exports.tracer_provider)
    if exports.meter_provider is not None:
        if process.PROCESS.was_shut_down(metrics.get_meter_provider()):
            replaced.append("meter")
        else:
            made.append("meter")
            metrics.set_meter_provider(exports.meter_provider)
    if made:
        # Logged beforehand: OpenTelemetry's own lines, which this one quotes, do not name `init`.
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
