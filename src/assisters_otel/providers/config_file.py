"""Sets the global providers that ``OTEL_CONFIG_FILE`` describes, as if the app had set them.

The package ``opentelemetry-configuration`` reads the file and creates the providers. It is
experimental and requires one version of the SDK, so an extra brings it. With
``opentelemetry-instrument`` the SDK applies the file before the app starts, and `init` finds the
providers.

* Each part of the file is applied by a call of its own. A part that cannot be used does not cost
  another one, and `init` builds its provider from the variables.
* A signal that the file does not describe has a provider that sends nothing: with the variable set,
  the file is the only source. Source: OpenTelemetry's specification of ``OTEL_CONFIG_FILE``.
* A message may hold no value of the file. A value may be a secret, at any place of a file that has
  a wrong structure.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from opentelemetry import propagate

from assisters_otel import logger
from assisters_otel.api import redaction
from assisters_otel.api.limits import MAX_MESSAGE
from assisters_otel.api.patterns import pattern
from assisters_otel.api.redaction import REDACTED, shown
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    import re
    from collections.abc import Collection, Iterator

    from opentelemetry.configuration import OpenTelemetryConfiguration
    from opentelemetry.configuration.models import Resource

TRACES: Final = "tracer_provider"
METRICS: Final = "meter_provider"
LOGS: Final = "logger_provider"
_PROPAGATOR: Final = "propagator"
_PARTS: Final = (TRACES, METRICS, LOGS, "instrumentation_development", _PROPAGATOR)
"""The parts of a configuration that change something in the process, in the order in which they are
applied. Instrumentations find the providers. The propagator comes last, because each call of
``configure_sdk`` sets one."""

INSTEAD: Final = "The OTEL_* variables and the arguments of init are taken instead"
"""The end of a message about a file, or a part of it, for which `init` takes something else."""

_LOADER: Final = "opentelemetry.configuration.file._loader"
"""The logger of the module that reads a file. Source: opentelemetry-configuration, 0.65b0 and
0.66b1."""

_QUOTES_LISTS: Final = (
    "opentelemetry.configuration._common",
    "opentelemetry.configuration._resource",
)
"""The loggers of the modules that quote an entry without ``=`` of ``headers_list`` or of
``attributes_list``. Source: opentelemetry-configuration, 0.65b0 and 0.66b1."""

_QUOTED: Final = pattern(r"""'[^']*'|"[^"]*\"""")


class ConfigFile:
    """A configuration file that has been read and checked.

    Attributes:
        is_disabled: True if the file switches OpenTelemetry off.
    """

    def __init__(self, path: str) -> None:
        """Read the file.

        Args:
            path: The value of ``OTEL_CONFIG_FILE``.

        Raises:
            ValueError: The package is not installed, or the file is not a configuration. The
                message shows what to do.
        """
        name = f"{environment.OTEL_CONFIG_FILE}={shown(path)}"
        try:
            from opentelemetry.configuration import load_config_file  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ValueError(
                f"{name} needs an extra: pip install 'assisters-otel[config]' ({error})"
            ) from error
        try:
            with _without_lines_of(_LOADER):
                self._model: OpenTelemetryConfiguration = load_config_file(path)
        except Exception as error:
            raise ValueError(f"{name} cannot be used: {_reason(error)}") from error
        self._name = name
        self.is_disabled = bool(self._model.disabled)

    def apply(self, wanted: Collection[str]) -> list[str]:
        """Set the global providers, switch on the listed instrumentations, and set the propagator.

        Args:
            wanted: Those of `TRACES`, `METRICS` and `LOGS` whose global provider is not set yet.

        Returns:
            A message for each part that cannot be used.
        """
        from opentelemetry.configuration import models  # noqa: PLC0415 - an extra

        try:
            self._model.resource = _detected(self._model)
        except ValueError as error:
            return [f"{self._name}: resource cannot be used: {error}. {INSTEAD}"]
        empty: dict[str, object] = {
            TRACES: models.TracerProvider(processors=[]),
            METRICS: models.MeterProvider(readers=[]),
        }
        texts = []
        propagator = propagate.get_global_textmap()
        for part in _PARTS:
            described: object = getattr(self._model, part)
            if part in {TRACES, METRICS, LOGS} and part not in wanted:
                continue
            if described is None and part in empty:
                self._log_missing(part)
                described = empty[part]
            if described is None and part != _PROPAGATOR:
                continue
            try:
                self._apply_part(part, described)
            except ValueError as error:
                instead = f". {INSTEAD}" if part in empty else ""
                texts.append(f"{self._name}: {part} cannot be used: {error}{instead}")
                propagate.set_global_textmap(propagator)
        return texts

    def _log_missing(self, part: str) -> None:
        unread: dict[str, object] = getattr(self._model, "additional_properties", {})
        if unread:
            logger.warning(
                "%s describes no %s, and has what nothing reads: %s. Nothing is sent for it",
                self._name,
                part,
                ", ".join(map(shown, sorted(unread))),
            )
        else:
            logger.info("%s describes no %s: nothing is sent for it", self._name, part)

    def _apply_part(self, part: str, described: object) -> None:
        from opentelemetry.configuration import configure_sdk  # noqa: PLC0415 - an extra

        model = replace(
            self._model,
            tracer_provider=None,
            meter_provider=None,
            logger_provider=None,
            instrumentation_development=None,
            propagator=None,
        )
        setattr(model, part, described)
        try:
            with _without_entries():
                configure_sdk(model)
        except Exception as error:
            raise ValueError(_reason(error, model)) from error


def _detected(model: OpenTelemetryConfiguration) -> Resource:
    """Return the resource that *model* describes, without detectors but with what they find.

    Each call of ``configure_sdk`` asks the detectors. One that asks a cloud for its metadata takes
    seconds.

    Raises:
        ValueError: A detector cannot be used.
    """
    from opentelemetry.configuration import models  # noqa: PLC0415 - an extra
    from opentelemetry.configuration.file import create_resource  # noqa: PLC0415 - an extra

    try:
        with _without_entries():
            resource = create_resource(model.resource)
    except Exception as error:
        raise ValueError(_reason(error, model)) from error
    attributes = [
        # Of any type of an attribute's: without a type's name the value is taken as it is.
        models.AttributeNameValue(name=name, value=cast("str", value))
        for name, value in resource.attributes.items()
    ]
    return models.Resource(attributes=attributes, schema_url=resource.schema_url)


@contextmanager
def _without_lines_of(name: str) -> Iterator[None]:
    """Drop the lines of a logger: the exception that follows says the same.

    Some of them quote the file.
    """
    lines = logging.getLogger(name)

    def is_other(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    lines.addFilter(is_other)
    try:
        yield
    finally:
        lines.removeFilter(is_other)


@contextmanager
def _without_entries() -> Iterator[None]:
    """Remove from the package's lines the entry of a list that they quote. It may be a key."""

    def redact(record: logging.LogRecord) -> bool:
        if record.args:
            record.args = (REDACTED,)
        return True

    quoting = [logging.getLogger(name) for name in _QUOTES_LISTS]
    for lines in quoting:
        lines.addFilter(redact)
    try:
        yield
    finally:
        for lines in quoting:
            lines.removeFilter(redact)


def _reason(error: BaseException, model: object = None) -> str:
    """Return what is wrong with a file, without its values.

    Args:
        error: The exception.
        model: The parsed file, or None if it was not read to its end.
    """
    cause = error.__cause__
    mark = getattr(cause, "problem_mark", None)
    if mark is not None:  # of PyYAML, whose text quotes the line, and whose problem a tag
        problem = _without_values(str(getattr(cause, "problem", None) or "no YAML"), None)
        return f"line {mark.line + 1}: {problem}"
    path = getattr(cause, "absolute_path", None)
    if path is not None:  # of jsonschema, whose text may begin with the value
        told = str(getattr(cause, "message", ""))
        value = repr(getattr(cause, "instance", None))
        if told.startswith(value):
            told = f"the value{told.removeprefix(value)}"
        place = ".".join(map(str, path))
        return redaction.clean(f"{place}: {told}" if place else told, MAX_MESSAGE)
    told = f"{type(error).__name__}: {_without_values(str(error), model)}"
    return redaction.clean(told, MAX_MESSAGE)


def _without_values(text: str, model: object) -> str:
    """Return a message without those of its quoted parts that are values of the file.

    Args:
        text: The message.
        model: The parsed file. None if it is not known: then no quoted part stays.
    """
    values = None if model is None else tuple(_values(model))

    def shown_part(found: re.Match[str]) -> str:
        part = found[0][1:-1]
        is_name = values is not None and not any(part in value for value in values)
        return found[0] if is_name else REDACTED

    return _QUOTED.sub(shown_part, text)


def _values(thing: object) -> Iterator[str]:
    """Iterate over the values of a model as text, without its names."""
    if is_dataclass(thing):
        thing = {one.name: getattr(thing, one.name) for one in fields(thing)} | {
            "": getattr(thing, "additional_properties", None)
        }
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, list | tuple):
        for one in thing:
            yield from _values(one)
    elif thing is not None:
        yield str(thing)
