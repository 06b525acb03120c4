"""The settings of the library, from the arguments of `init` and from the environment.

An argument wins over a variable. A wrong argument raises `ValueError`. A wrong variable is ignored
with a warning, because a typo in a deployment must not prevent the app from starting. With
``strict=True`` a wrong variable raises `ValueError` as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from operator import is_
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel import logger
from assisters_otel.api import redaction
from assisters_otel.api.redaction import shown
from assisters_otel.hosts import DEFAULT_HOSTS, Host, argument_host, distinct, environment_hosts
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from assisters_otel.variables import corrections


class WrongArgument(ValueError):  # noqa: N818 - `init` documents a ValueError
    """An argument of `init`, not a variable, is wrong. `init` raises it and logs other errors."""


_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off", ""})
PROTOCOLS: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""The protocols of OTLP, with the names of their exporters' entry points."""


@dataclass(frozen=True)
class Config:
    """The settings of one `init`.

    Attributes:
        service_name: The service's name for providers that the library builds, or None.
        endpoint: The base URL of an OTLP receiver, or None. It may hold a password, so the repr
            leaves it out.
        headers: The headers for that receiver, or None. They may hold a key, so the repr leaves
            them out.
        protocol: One of `PROTOCOLS`, or None.
        hosts: Every host that is watched.
        capture_message: True if the envelope's message is written to the span.
        captures_headers: True if HTTP instrumentation writes response headers to spans.
        strict: True if errors of the library itself are raised. Otherwise they are logged.
    """

    service_name: str | None = None
    endpoint: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    protocol: str | None = None
    hosts: tuple[Host, ...] = DEFAULT_HOSTS
    capture_message: bool = False
    captures_headers: bool = False
    strict: bool = False

    def joined(self, other: Config) -> Config:
        """Return the settings with the hosts and the messages that *other* asks for as well."""
        return replace(
            self,
            hosts=distinct((*self.hosts, *other.hosts)),
            capture_message=self.capture_message or other.capture_message,
        )

    def hosts_by_name(self) -> dict[str, tuple[Host, ...]]:
        """Return the hosts by each name that a client may use for them, in lower case.

        So a request to a host that is not watched costs one look-up, and no request converts a
        name.
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
    """Check the arguments of `init` and return their settings, without the environment's.

    Raises:
        ValueError: An argument is wrong. The message shows what to write instead.
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
        hosts=distinct((*DEFAULT_HOSTS, *map(argument_host, hosts or ()))),
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

    Args:
        name: The argument's name, for the message.
        value: The provider, or None.
        method: The name of a method that such a provider has.

    Raises:
        ValueError: *value* is a class, or has no such method.
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
    """Return True if the environment asks for the envelope's message on spans.

    Raises:
        ValueError: The variable is neither true nor false. The message shows what to write.
    """
    text = environ.get(environment.ASSISTERS_OTEL_CAPTURE_MESSAGE, "").strip().lower()
    if text not in _TRUE | _FALSE:
        variable = environment.ASSISTERS_OTEL_CAPTURE_MESSAGE
        raise ValueError(f"{variable}: neither true nor false: {shown(text)}. Write true or false")
    return text in _TRUE


def environment_captures_headers(environ: Mapping[str, str]) -> bool:
    """Return True if the environment asks HTTP instrumentation for response headers on spans."""
    return bool(environ.get(environment.OTEL_CAPTURE_RESPONSE_HEADERS, "").strip())


def sdk_disabled(environ: Mapping[str, str]) -> bool:
    """Return True if ``OTEL_SDK_DISABLED`` turns the library off."""
    return environ.get(environment.OTEL_SDK_DISABLED, "").strip().lower() == "true"


def config_file(environ: Mapping[str, str]) -> str | None:
    """Return the path in ``OTEL_CONFIG_FILE``, or None if there is none."""
    return environ.get(environment.OTEL_CONFIG_FILE, "").strip() or None


def disabled_instrumentations(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the names in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS``."""
    listed = environ.get(environment.OTEL_DISABLED_INSTRUMENTATIONS, "").split(",")
    return frozenset(filter(None, map(str.strip, listed)))


def with_environment(
    config: Config, environ: Mapping[str, str], *, capture_message_given: bool
) -> Config:
    """Return the settings with the environment's added. Log a warning for each wrong variable.

    Args:
        config: The settings from the arguments.
        environ: The environment.
        capture_message_given: True if `init` was called with *capture_message*, which then wins.

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
    _warn_or_raise(wrong, strict=config.strict)
    return config


def warn_of_wrong(
    wrong: Iterable[corrections.Correction], signals: AbstractSet[str], *, strict: bool
) -> None:
    """Log a warning for each wrong variable of OpenTelemetry that concerns the library.

    Args:
        wrong: The result of `variables.corrections`.
        signals: The signals for which the library builds providers.
        strict: True to raise the first one instead.

    Raises:
        ValueError: A variable is wrong, and *strict* is true.
    """
    read = (one for one in wrong if not one.signals or not signals.isdisjoint(one.signals))
    _warn_or_raise([redaction.redact(one.text) for one in read if one.text], strict=strict)


def _warn_or_raise(texts: Iterable[str], *, strict: bool) -> None:
    for text in texts:
        if strict:
            raise ValueError(text)
        logger.warning("%s", text)


class InitArguments(NamedTuple):
    """The arguments of one `init`, to be compared with those of a second call.

    Attributes:
        config: The settings from the arguments, without the environment's.
        capture_message: The argument; None if it was left out.
        tracer_provider: The argument, or None.
        meter_provider: The argument, or None.
    """

    config: Config
    capture_message: bool | None
    tracer_provider: object
    meter_provider: object

    def is_same_as(self, other: InitArguments) -> bool:
        """Return True if all arguments are the same. Providers are compared by identity."""
        providers, others = self._providers(), other._providers()
        return self[:2] == other[:2] and all(map(is_, providers, others))

    def _providers(self) -> tuple[object, object]:
        return self.tracer_provider, self.meter_provider
