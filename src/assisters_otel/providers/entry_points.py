"""What a name in an OTEL_* variable stands for: entry points, and what they make."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from os import environ
from typing import TYPE_CHECKING, Final, TypeVar, cast

from opentelemetry import environment_variables as api_variables
from opentelemetry.sdk import environment_variables as sdk_variables
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler

# As importlib.metadata's, but read from disk once; the API has done that on its import.
from opentelemetry.util._importlib_metadata import entry_points

from assisters_otel.api.redaction import shown
from assisters_otel.config import PROTOCOLS
from assisters_otel.variables.rules import RATIO_SAMPLERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib.metadata import EntryPoint

    Tell = Callable[[str], object]

Made = TypeVar("Made")

_GRPC: Final = PROTOCOLS["grpc"]
_HOMES: Final = {
    PROTOCOLS["http/protobuf"]: "opentelemetry-exporter-otlp-proto-http",
    _GRPC: "opentelemetry-exporter-otlp-proto-grpc",
}


def _find_entry_point(group: str, name: str) -> EntryPoint | None:
    # To look the two usual ones up where they are at home spares reading what every
    # installed distribution registers, which is half of the time that `init` takes.
    if name in _HOMES:
        with suppress(PackageNotFoundError):
            at_home = distribution(_HOMES[name]).entry_points
            return next(iter(at_home.select(group=group, name=name)), None)
    return next(iter(entry_points(group=group, name=name)), None)


def load_entry_point(group: str, name: str, variable: str, also: Iterable[str] = ()) -> object:
    """Import what a name stands for.

    Args:
        group: Of the entry points.
        name: In that group.
        variable: Where the name is from, for what is said if there is none.
        also: What else may be written there.

    Raises:
        ValueError: Nothing is called so, or it cannot be imported; the message says what to do.
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
    make: Callable[[], Made | None], default: Made | None, name: str, tell: Tell | None
) -> Made | None:
    """Make something; take *default*, and tell what is wrong and that *name* is taken.

    Raises:
        ValueError: What *make* raises, if there is nobody to tell.
    """
    try:
        return make()
    except ValueError as error:
        if tell is None:
            raise
        tell(f"{error}. {name} is taken instead")
        return default


def sampler(tell: Tell | None = None) -> Sampler | None:
    """Make the sampler that ``OTEL_TRACES_SAMPLER`` asks for.

    Args:
        tell: Gets what is wrong, if the SDK's default is to be taken then.

    Returns:
        The sampler, one of the SDK's or one that a package has registered, or None for
        the provider's default.

    Raises:
        ValueError: There is none of that name, or it refuses its argument, and nobody to tell.
    """
    default: Sampler = DEFAULT_ON
    return _or_default(_sampler, default, "parentbased_always_on", tell)


def _sampler() -> Sampler | None:
    variable = sdk_variables.OTEL_TRACES_SAMPLER
    name = environ.get(variable, "").strip()
    if not name:
        return None
    if name.lower() in entry_points(group="opentelemetry_traces_sampler").names:
        name = name.lower()
    factory = cast(
        "Callable[[object], object]",
        load_entry_point("opentelemetry_traces_sampler", name, variable),
    )
    text = environ.get(sdk_variables.OTEL_TRACES_SAMPLER_ARG)
    try:
        made = factory(float(text or 1) if name in RATIO_SAMPLERS else text)
    except Exception as error:
        raise ValueError(
            f"{variable}: {shown(name)} refuses "
            f"{sdk_variables.OTEL_TRACES_SAMPLER_ARG}={shown(text or '')} "
            f"({type(error).__name__}: {error}). Write a number from 0 to 1 for a ratio"
        ) from error
    if not isinstance(made, Sampler):
        raise ValueError(
            f"{variable}: {shown(name)} makes no sampler. Write 'parentbased_always_on'"
        )
    return made


def id_generator(tell: Tell | None = None) -> IdGenerator | None:
    """Make the generator that ``OTEL_PYTHON_ID_GENERATOR`` asks for, or None for random ids.

    Args:
        tell: Gets what is wrong, if ids are to be random then.

    Raises:
        ValueError: There is none of that name, and nobody to tell.
    """
    return _or_default(_id_generator, None, "random", tell)


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


def configurator(what: str, tell: Tell | None = None) -> dict[str, Callable[..., object]]:
    """Read who decides which tracers, or which meters, are on.

    Args:
        what: ``tracer`` or ``meter``.
        tell: Gets what is wrong, if all are to be on then.

    Returns:
        What the SDK's provider is made with, as the SDK's own auto-configuration makes it: nothing
        if ``OTEL_PYTHON_{TRACER,METER}_CONFIGURATOR`` is not set, or the SDK does not know it.

    Raises:
        ValueError: There is none of that name, and nobody to tell.
    """
    variable = getattr(sdk_variables, f"OTEL_PYTHON_{what.upper()}_CONFIGURATOR", "")
    name = environ.get(variable, "").strip()
    if not name:
        return {}

    def load_it() -> dict[str, Callable[..., object]]:
        found = load_entry_point(f"_opentelemetry_{what}_configurator", name, variable)
        if not callable(found):
            raise ValueError(f"{variable}: {shown(name)} cannot be called. Unset it")
        return {f"_{what}_configurator": found}

    return _or_default(load_it, {}, "The SDK's own", tell) or {}
