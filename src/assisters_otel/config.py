"""The settings of the library, from the arguments of `init` and from the environment.

An argument wins over a variable. A wrong argument raises `ValueError`. A wrong variable is ignored
with a warning, because a typo in a deployment must not prevent the app from starting. With
``strict=True`` a wrong variable raises `ValueError` as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from assisters_otel import baggage_names, logger
from assisters_otel.api import redaction
from assisters_otel.api.redaction import shown
from assisters_otel.hosts import DEFAULT_HOSTS, Host, argument_host, distinct, environment_hosts
from assisters_otel.records import Record
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from assisters_otel.variables import corrections


class WrongArgument(ValueError):  # noqa: N818 - `init` documents a ValueError
    """An argument of `init`, not a variable, is wrong. `init` raises it and logs other errors."""


_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
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
        key_fingerprint: True if the fingerprint of the API key is written with each failure.
        baggage: The names of the baggage's entries that become attributes and labels.
        captures_headers: True if HTTP instrumentation writes response headers to spans.
        strict: True if errors of the library itself are raised. Otherwise they are logged.
        given: The names of the arguments of `init` that win over their variables.
    """

    service_name: str | None = None
    endpoint: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    protocol: str | None = None
    hosts: tuple[Host, ...] = DEFAULT_HOSTS
    capture_message: bool = False
    key_fingerprint: bool = True
    baggage: tuple[str, ...] = ()
    captures_headers: bool = False
    strict: bool = False
    given: frozenset[str] = frozenset()

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
    key_fingerprint: bool | None = None,
    baggage: Sequence[str] | None = None,
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
            "headers must map names to values, both text. Write {'x-scope-orgid': 'shop'}"
        )
    if hosts is not None and (isinstance(hosts, (str, bytes)) or not _is_sequence(hosts)):
        raise ValueError("hosts is a sequence. Write hosts=['gateway.example'], with brackets")
    if baggage is not None and (isinstance(baggage, (str, bytes)) or not _is_sequence(baggage)):
        raise ValueError("baggage is a sequence of names. Write baggage=('tenant',), with a comma")
    switches = (("capture_message", capture_message), ("key_fingerprint", key_fingerprint))
    settings: tuple[tuple[str, object], ...] = (*switches, ("baggage", baggage))
    for name, flag in (*switches, ("strict", strict)):
        if not isinstance(flag, (bool, type(None))):
            raise ValueError(f"{name} is a switch. Write {name}=True or {name}=False")
    return Config(
        service_name=service_name,
        endpoint=endpoint,
        headers=None if headers is None else dict(headers),
        protocol=protocol,
        hosts=distinct((*DEFAULT_HOSTS, *map(argument_host, hosts or ()))),
        capture_message=bool(capture_message),
        key_fingerprint=key_fingerprint is None or key_fingerprint,
        baggage=baggage_names.argument_names(baggage or ()),
        strict=bool(strict),
        given=frozenset(name for name, value in settings if value is not None),
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
    """Return True if the environment asks for the envelope's message on spans. See `_switch`."""
    return _switch(environ, environment.ASSISTERS_OTEL_CAPTURE_MESSAGE, "false")


def environment_key_fingerprint(environ: Mapping[str, str]) -> bool:
    """Return True unless the environment switches the fingerprint off. See `_switch`."""
    cost = ". No fingerprint is recorded"
    return _switch(environ, environment.ASSISTERS_OTEL_KEY_FINGERPRINT, "true", cost)


def _switch(environ: Mapping[str, str], variable: str, default: str, cost: str = "") -> bool:
    """Return True if a variable is true.

    Raises:
        ValueError: It is neither true nor false. The message shows what to write.
    """
    text = environ.get(variable, "").strip().lower() or default
    if text not in _TRUE | _FALSE:
        what = f"neither true nor false: {shown(text)}. Write true or false"
        raise ValueError(f"{variable}: {what}{cost}")
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


def with_environment(config: Config, environ: Mapping[str, str]) -> Config:
    """Return the settings with the environment's added. Log a warning for each wrong variable.

    Raises:
        ValueError: A variable is wrong, and *config* is strict.
    """
    config, wrong = read_environment(config, environ)
    _warn_or_raise(wrong, strict=config.strict)
    return config


def read_environment(config: Config, environ: Mapping[str, str]) -> tuple[Config, tuple[str, ...]]:
    """Return the settings with the environment's added, and a message for each wrong variable."""
    hosts, wrong = environment_hosts(environ)
    config = replace(
        config,
        hosts=tuple(dict.fromkeys((*config.hosts, *hosts))),
        captures_headers=environment_captures_headers(environ),
    )
    if "capture_message" not in config.given:
        try:
            config = replace(config, capture_message=environment_capture_message(environ))
        except ValueError as error:
            wrong += (str(error),)
    if "key_fingerprint" not in config.given:
        try:
            config = replace(config, key_fingerprint=environment_key_fingerprint(environ))
        except ValueError as error:
            # Only a user who wants no fingerprint sets the variable.
            config = replace(config, key_fingerprint=False)
            wrong += (str(error),)
    if "baggage" not in config.given:
        names, message = baggage_names.environment_names(environ)
        config = replace(config, baggage=names)
        wrong += () if message is None else (message,)
    return config, wrong


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


class InitArguments(Record):
    """The arguments of one `init`, to be compared with those of a second call.

    Attributes:
        config: The settings from the arguments, without the environment's.
        tracer_provider: The argument, or None.
        meter_provider: The argument, or None.
    """

    config: Config
    tracer_provider: object
    meter_provider: object

    def is_same_as(self, other: InitArguments) -> bool:
        """Return True if all arguments are the same. Providers are compared by identity."""
        providers = zip(self[1:], other[1:], strict=True)
        return self.config == other.config and all(one is another for one, another in providers)
