"""Checks OpenTelemetry's variables by the rules after which `init` warns of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.environment_variables import OTEL_PYTHON_ID_GENERATOR

from assisters_otel.api.redaction import redact
from assisters_otel.cli.doctor.finding import Finding
from assisters_otel.providers import entry_points
from assisters_otel.variables import corrections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_TO_DO: Final = "Correct the variable."

_LOADED: Final[tuple[tuple[str, Callable[[], object]], ...]] = (
    (OTEL_PYTHON_ID_GENERATOR, entry_points.id_generator),
    ("OTEL_PYTHON_TRACER_CONFIGURATOR", lambda: entry_points.configurator("tracer")),
    ("OTEL_PYTHON_METER_CONFIGURATOR", lambda: entry_points.configurator("meter")),
)
"""The variables that have no rule, since only loading what they name shows whether it is right. The
sampler and the exporters have checks of their own in `collector`."""


def check_variables(environ: Mapping[str, str], *, has_file: bool) -> Iterator[Finding]:
    """Check each variable that is set.

    Args:
        environ: The environment variables.
        has_file: True if a configuration file describes the providers. Then the variables of the
            signals are not read.

    Yields:
        A finding for each variable whose value cannot be used.
    """
    for one in corrections.corrections(environ):
        if one.text is not None and not (has_file and one.signals):
            yield Finding(one.name, False, redact(one.text), _TO_DO)
    if not has_file:
        for name, load in _LOADED:
            yield from _loaded(name, load)


def _loaded(name: str, load: Callable[[], object]) -> Iterator[Finding]:
    try:
        load()
    except ValueError as error:
        yield Finding(name, False, redact(str(error)), _TO_DO)
