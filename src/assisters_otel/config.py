"""What the user decided, from arguments and environment.

A wrong argument is an error at once; a wrong variable is a `ValueError` too, which
`init` turns into a warning: a deployment's typo does not keep an app from starting.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from operator import is_
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel import logger
from assisters_otel.api import redaction
from assisters_otel.api.redaction import shown
from assisters_otel.hosts import DEFAULT_HOSTS, Host, _argument_host, _distinct, environment_hosts
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from assisters_otel.variables import corrections


class WrongArgument(ValueError):  # noqa: N818 - it is raised as the ValueError that it is
    """An argument of `init` is wrong, and not a variable of the environment."""


_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off", ""})
PROTOCOLS: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""The protocols of OTLP, and the entry points of their exporters."""


@dataclass(frozen=True)
class Config:
    """What `init` was told.

    Attributes:
        service_name: For providers that we build, or None.
        endpoint: The base URL of an OTLP receiver, or None. It may hold a password, so it
            is in no repr.
        headers: For that receiver. They may hold a key, so they are in no repr.
        protocol: One of `PROTOCOLS`, or None.
        hosts: Every host that is watched.
        capture_message: Whether the envelope's message goes on the span.
        captures_headers: Whether HTTP instrumentation puts response headers on spans.
        strict: Whether our own trouble is raised.
    """

    service_name: str | None = None
    endpoint: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    protocol: str | None = None
    hosts: tuple[Host, ...] = DEFAULT_HOSTS
    capture_message: bool = False
    captures_headers: bool = False
    strict: bool = False

    def hosts_by_name(self) -> dict[str, tuple[Host, ...]]:
        """Group the hosts by each name that a client may have for them, in lower case.

        Any other host costs one look-up, and no client's name is converted on a request's path.
        """
        grouped: dict[str, tuple[Host, ...]] = {}
        for host in self.hosts:
            for name in host.spellings():
                grouped[name] = (*grouped.get(name, ()), host)
        return grouped


def from_arguments(  # noqa: PLR0913 - as many as `init` has
    *,
    service_name: str | None = None,
    endpoint: str | None = None,
    headers: Mapping[str, str] | None = None,
    protocol: str | None = None,
    hosts: Sequence[str] | None = None,
    capture_message: bool | None = None,
    strict: bool = False,
) -> Config:
    """Check what `init` was given, without the environment.

    Raises:
        ValueError: One of them is wrong; the message says what to write instead.
    """
    _check_text("service_name", service_name, "the service's name, 'checkout'")
    _check_text("endpoint", endpoint, "the base URL of an OTLP receiver, 'http://localhost:4318'")
    if protocol is not None and protocol not in PROTOCOLS:
        what = shown(protocol) if isinstance(protocol, str) else f"{type(protocol).__name__}"
        raise ValueError(f"unknown protocol: {what}. Write 'http/protobuf' or 'grpc'")
    if headers is not None and not _is_text_mapping(headers):
        raise ValueError(
            "headers must map names to values, both text. Write {'authorization': 'Bearer …'}"
        )
    if hosts is not None and (isinstance(hosts, (str, bytes)) or not _is_sequence(hosts)):
        raise ValueError("hosts is a sequence. Write hosts=['gateway.example'], with brackets")
    for name, flag in (("capture_message", capture_message), ("strict", strict)):
        if not isinstance(flag, (bool, type(None))):
            raise ValueError(f"{name} is a switch. Write {name}=True or {name}=False")
    return Config(
        service_name=service_name,
        endpoint=endpoint,
        headers=None if headers is None else dict(headers),
        protocol=protocol,
        hosts=_distinct((*DEFAULT_HOSTS, *map(_argument_host, hosts or ()))),
        capture_message=bool(capture_message),
        strict=bool(strict),
    )


def _check_text(name: str, value: object, example: str) -> None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise ValueError(f"{name} must be text and not empty. Write {example}, or leave it out")


def _is_sequence(value: object) -> bool:
    return hasattr(value, "__iter__") and not hasattr(value, "keys")


def check_provider(name: str, value: object, method: str) -> None:
    """Check a provider that `init` was given.

    Raises:
        ValueError: It is none.
    """
    if value is None:
        return
    if isinstance(value, type) or not callable(getattr(value, method, None)):
        what = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise ValueError(
            f"{name} is no provider: {what}. Write {name}=a provider of "
            f"OpenTelemetry's, with a method {method}, or leave it out"
        )


def _is_text_mapping(value: object) -> bool:
    items = getattr(value, "items", None)
    return callable(items) and all(isinstance(k, str) and isinstance(v, str) for k, v in items())


def environment_capture_message(environ: Mapping[str, str]) -> bool:
    """Read whether the environment wants messages captured.

    Raises:
        ValueError: It is neither true nor false; the message says what to write.
    """
    text = environ.get(environment.ASSISTERS_OTEL_CAPTURE_MESSAGE, "").strip().lower()
    if text not in _TRUE | _FALSE:
        variable = environment.ASSISTERS_OTEL_CAPTURE_MESSAGE
        raise ValueError(f"{variable}: neither true nor false: {shown(text)}. Write true or false")
    return text in _TRUE


def environment_captures_headers(environ: Mapping[str, str]) -> bool:
    """Return True if HTTP instrumentation is to put response headers on spans."""
    return bool(environ.get(environment.OTEL_CAPTURE_RESPONSE_HEADERS, "").strip())


def sdk_disabled(environ: Mapping[str, str]) -> bool:
    """Say whether ``OTEL_SDK_DISABLED`` switches everything off."""
    return environ.get(environment.OTEL_SDK_DISABLED, "").strip().lower() == "true"


def with_environment(
    config: Config, environ: Mapping[str, str], *, capture_message_given: bool
) -> Config:
    """Add what the environment says; arguments win.

    A wrong variable costs one warning and is as if it were not set: a typo of a
    deployment must not keep the app from starting.

    Raises:
        ValueError: A variable is wrong, and *config* is strict.
    """
    hosts, wrong = environment_hosts(environ)
    config = replace(
        config,
        hosts=tuple(dict.fromkeys((*config.hosts, *hosts))),
        captures_headers=environment_captures_headers(environ),
    )
    if not capture_message_given:
        try:
            wanted = environment_capture_message(environ)
            config = replace(config, capture_message=wanted)
        except ValueError as error:
            wrong += (str(error),)
    _tell(wrong, strict=config.strict)
    return config


def tell_of_wrong(
    wrong: Iterable[corrections.Correction], signals: AbstractSet[str], *, strict: bool
) -> None:
    """Warn of each wrong variable of OpenTelemetry's that is read.

    Args:
        wrong: What `variables.corrections` has found.
        signals: What we make providers for.
        strict: Whether to raise in its place.

    Raises:
        ValueError: There is one, if *strict*.
    """
    read = (one for one in wrong if not one.signals or not signals.isdisjoint(one.signals))
    _tell([redaction.redact(one.text) for one in read if one.text], strict=strict)


def _tell(texts: Iterable[str], *, strict: bool) -> None:
    for text in texts:
        if strict:
            raise ValueError(text)
        logger.warning("%s", text)


class _Arguments(NamedTuple):
    """What `init` was called with, to compare a second call's."""

    config: Config
    capture_message: bool | None
    tracer_provider: object
    meter_provider: object

    def are_those_of(self, other: _Arguments) -> bool:
        """Return True if the same was asked for. A provider need not be comparable."""
        ours, theirs = self._providers(), other._providers()
        return self[:2] == other[:2] and all(map(is_, ours, theirs))

    def _providers(self) -> tuple[object, object]:
        return self.tracer_provider, self.meter_provider
