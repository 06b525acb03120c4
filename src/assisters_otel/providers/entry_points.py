"""Loads what a name in an ``OTEL_*`` variable stands for: exporters, samplers, id generators."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from importlib.util import find_spec
from os import environ
from typing import TYPE_CHECKING, Final, TypeVar, cast

from opentelemetry import environment_variables as api_variables
from opentelemetry.sdk import environment_variables as sdk_variables
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler

# The same as importlib.metadata's, but it reads from disk once. The API's import has done that.
from opentelemetry.util._importlib_metadata import entry_points

from assisters_otel.api.redaction import shown
from assisters_otel.config import PROTOCOLS
from assisters_otel.variables.rules import RATIO_SAMPLERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Warn = Callable[[str], object]

Made = TypeVar("Made")

_GRPC: Final = PROTOCOLS["grpc"]
_HOMES: Final = {
    PROTOCOLS["http/protobuf"]: "opentelemetry-exporter-otlp-proto-http",
    _GRPC: "opentelemetry-exporter-otlp-proto-grpc",
}
"""The distributions that register the two exporters of OTLP."""

_MODULES: Final = {
    PROTOCOLS["http/protobuf"]: "opentelemetry.exporter.otlp.proto.http",
    _GRPC: "opentelemetry.exporter.otlp.proto.grpc",
}
_CLASSES: Final = {
    "opentelemetry_traces_exporter": "trace_exporter:OTLPSpanExporter",
    "opentelemetry_metrics_exporter": "metric_exporter:OTLPMetricExporter",
}
"""The classes that these distributions register, by the group of entry points."""


def _find_entry_point(group: str, name: str) -> EntryPoint | None:
    # To read the entry points of all installed distributions takes half of the time of `init`. So
    # the usual two are looked up in their own distributions.
    if name in _HOMES:
        with suppress(PackageNotFoundError):
            at_home = distribution(_HOMES[name]).entry_points
            return next(iter(at_home.select(group=group, name=name)), None)
        return _find_unregistered(group, name)
    return next(iter(entry_points(group=group, name=name)), None)


def _find_unregistered(group: str, name: str) -> EntryPoint | None:
    """Return what the exporters of OTLP register, where a bundler has left their metadata out."""
    try:
        is_there = group in _CLASSES and find_spec(_MODULES[name]) is not None
    except ImportError:  # not even the packages above it
        return None
    return EntryPoint(name, f"{_MODULES[name]}.{_CLASSES[group]}", group) if is_there else None


def load_entry_point(group: str, name: str, variable: str, also: Iterable[str] = ()) -> object:
    """Import what a name stands for.

    Args:
        group: The group of entry points.
        name: The name in it.
        variable: Where the name comes from. The message quotes it.
        also: Further values of the variable, which are no entry points.

    Raises:
        ValueError: The name is not registered, or cannot be imported. The message says what to do.
    """
    extra = "pip install 'assisters-otel[grpc]'"
    found = _find_entry_point(group, name)
    if found is None:
        if name == _GRPC:
            raise ValueError(f"OTLP over gRPC needs an extra: {extra}, or write 'http/protobuf'")
        known = ", ".join(sorted({*entry_points(group=group).names, *also}))
        instead = f"Write one of {known}" if known else f"Unset {variable}"
        raise ValueError(
            f"{variable}: nothing is called {shown(name)}. {instead}, or install the "
            "package that brings it"
        )
    try:
        return cast("object", found.load())
    except Exception as error:
        advice = extra if name == _GRPC else "install what it needs"
        raise ValueError(
            f"{variable}: {shown(name)} cannot be imported ({type(error).__name__}: {error}): "
            f"{advice}"
        ) from error


def _or_default(
    make: Callable[[], Made | None], default: Made | None, name: str, warn: Warn | None
) -> Made | None:
    """Return what *make* returns, or *default* with a warning that *name* is taken.

    Raises:
        ValueError: *make* raises it, and *warn* is None.
    """
    try:
        return make()
    except ValueError as error:
        if warn is None:
            raise
        warn(f"{error}. {name} is taken instead")
        return default


def sampler(warn: Warn | None = None) -> Sampler | None:
    """Return the sampler that ``OTEL_TRACES_SAMPLER`` asks for.

    `TracerProvider` reads the variable too, but knows no registered sampler. It logs a line of its
    own for a wrong, an empty and a blank-padded name, and for a ratio without an argument. In 1.44
    it raises for a ratio of 2. So the variable is read here, by the entry points under which the
    SDK registers its own samplers.

    Args:
        warn: Gets what is wrong; then the SDK's default is returned. None: raise it.

    Returns:
        The sampler, or None if the variable is not set.

    Raises:
        ValueError: The name is not registered, or its sampler refuses the argument, and *warn* is
            None.
    """
    default: Sampler = DEFAULT_ON
    return _or_default(_sampler, default, "parentbased_always_on", warn)


def _sampler() -> Sampler | None:
    variable = sdk_variables.OTEL_TRACES_SAMPLER
    if variable not in environ:
        return None
    name = environ[variable].strip()
    if not name:
        default: Sampler = DEFAULT_ON
        return default
    if name.lower() in entry_points(group="opentelemetry_traces_sampler").names:
        name = name.lower()
    factory = cast(
        "Callable[[object], object]",
        load_entry_point("opentelemetry_traces_sampler", name, variable),
    )
    argument = environ.get(sdk_variables.OTEL_TRACES_SAMPLER_ARG)
    try:
        made = factory(float(argument or 1) if name in RATIO_SAMPLERS else argument)
    except Exception as error:
        raise ValueError(
            f"{variable}: {shown(name)} refuses "
            f"{sdk_variables.OTEL_TRACES_SAMPLER_ARG}={shown(argument or '')} "
            f"({type(error).__name__}: {error}). Write a number from 0 to 1 for a ratio"
        ) from error
    if not isinstance(made, Sampler):
        raise ValueError(
            f"{variable}: {shown(name)} makes no sampler. Write 'parentbased_always_on'"
        )
    return made


def id_generator(warn: Warn | None = None) -> IdGenerator | None:
    """Return the generator that ``OTEL_PYTHON_ID_GENERATOR`` asks for, or None for random ids.

    Args:
        warn: Gets what is wrong; then ids are random. None: raise it.

    Raises:
        ValueError: The name is not registered, or its generator cannot be made, and *warn* is None.
    """
    return _or_default(_id_generator, None, "random", warn)


def _id_generator() -> IdGenerator | None:
    variable = api_variables.OTEL_PYTHON_ID_GENERATOR
    name = environ.get(variable, "").strip()
    if not name:
        return None
    kind = load_entry_point("opentelemetry_id_generator", name, variable)
    if not (isinstance(kind, type) and issubclass(kind, IdGenerator)):
        raise ValueError(f"{variable}: {shown(name)} makes no ids. Write 'random'")
    try:
        return kind()
    except Exception as error:
        raise ValueError(
            f"{variable}: {shown(name)} cannot be made ({type(error).__name__}: {error}). "
            "Write 'random'"
        ) from error


def configurator(what: str, warn: Warn | None = None) -> dict[str, Callable[..., object]]:
    """Return the function that decides which tracers, or which meters, are on.

    Args:
        what: ``tracer`` or ``meter``.
        warn: Gets what is wrong; then the SDK's own function decides. None: raise it.

    Returns:
        A private argument of the SDK's provider, as the SDK's auto-configuration gives it. It is
        empty if ``OTEL_PYTHON_{TRACER,METER}_CONFIGURATOR`` is not set, or the SDK has no such
        variable.

    Raises:
        ValueError: The name is not registered, and *warn* is None.
    """
    variable = getattr(sdk_variables, f"OTEL_PYTHON_{what.upper()}_CONFIGURATOR", "")
    name = environ.get(variable, "").strip()
    if not name:
        return {}

    def load() -> dict[str, Callable[..., object]]:
        found = load_entry_point(f"_opentelemetry_{what}_configurator", name, variable)
        if not callable(found):
            raise ValueError(f"{variable}: {shown(name)} cannot be called. Unset it")
        return {f"_{what}_configurator": found}

    return _or_default(load, {}, "The SDK's own", warn) or {}
