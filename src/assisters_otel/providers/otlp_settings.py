"""Endpoint, headers, protocol and compression of an OTLP exporter, from arguments and variables."""

from __future__ import annotations

import importlib
from os import environ
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from opentelemetry.sdk import environment_variables as sdk_variables

from assisters_otel.api.patterns import pattern
from assisters_otel.api.redaction import shown
from assisters_otel.config import PROTOCOLS, WrongArgument
from assisters_otel.hosts import may_hold_password
from assisters_otel.providers.signals import METRICS, TRACES, Signal
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assisters_otel.providers.entry_points import Warn

GRPC: Final = PROTOCOLS["grpc"]
HTTP: Final = PROTOCOLS["http/protobuf"]
OTLP: Final = ("otlp", *PROTOCOLS.values())
"""The names of OTLP in a variable that lists exporters."""

_PLACE: Final = pattern(r"(?P<host>[A-Za-z0-9._-]+)(?::(?P<port>\d+))?(?P<path>(?:/[^@\s]*)?)")
"""A URL without its scheme."""


class OtlpArguments(Record):
    """The caller's settings for OTLP. None leaves a setting to the variables."""

    endpoint: str | None = None
    headers: Mapping[str, str] | None = None
    protocol: str | None = None

    def __repr__(self) -> str:
        return f"OtlpArguments(protocol={self.protocol!r})"  # the others may hold a secret


def otlp_exporter(signal: Signal, protocol: str | None) -> str:
    """Return the name of the exporter for a protocol, ``otlp_proto_http``.

    Args:
        signal: Traces or metrics.
        protocol: The caller's; None leaves it to the variables, and HTTP if they are not set.

    Raises:
        ValueError: There is no such protocol.
    """
    choices = [("protocol", protocol)] + [
        (variable, environ.get(variable, "").strip())
        for variable in (signal.protocol, sdk_variables.OTEL_EXPORTER_OTLP_PROTOCOL)
    ]
    source, chosen = next((choice for choice in choices if choice[1]), ("", "http/protobuf"))
    if chosen not in PROTOCOLS:
        raise ValueError(
            f"{source}: unknown protocol {shown(chosen or '')}. Write 'http/protobuf' or 'grpc'"
        )
    return PROTOCOLS[chosen]


def otlp_endpoint(signal: Signal, name: str, argument: str | None) -> str:
    """Return the URL that an exporter sends to.

    Args:
        signal: Traces or metrics.
        name: The exporter's, `GRPC` or `HTTP`.
        argument: The caller's base URL, which `check_url` has passed; None leaves it to the
            variables.

    Raises:
        ValueError: The variable's is no URL, or has what the exporter cannot use.
    """
    common = sdk_variables.OTEL_EXPORTER_OTLP_ENDPOINT
    if argument is not None:
        source, endpoint = "endpoint", argument.strip()
    else:
        source = signal.endpoint if environ.get(signal.endpoint, "").strip() else common
        endpoint = environ.get(source, "").strip()
    if name == GRPC:
        if "@" in endpoint and source != "endpoint":
            raise ValueError(
                f"{source}: {shown(endpoint)} has a user or a password, and gRPC takes none. "
                "Leave them out"
            )
        return endpoint or "http://localhost:4317"
    endpoint = endpoint or "http://localhost:4318"
    if source != "endpoint":
        check_url(source, endpoint, base=source != signal.endpoint)
    return endpoint if source == signal.endpoint else endpoint.rstrip("/") + signal.path


def grpc_compression(signal: Signal, warn: Warn | None) -> dict[str, object]:
    """Return the exporter's argument ``compression``, where the variable's value would fail.

    The gRPC exporter raises for every word but ``gzip``, also for ``none`` and for ``deflate``,
    which is right for HTTP.

    Args:
        signal: Traces or metrics.
        warn: Gets that there is no such compression.
    """
    common = sdk_variables.OTEL_EXPORTER_OTLP_COMPRESSION
    for variable in (signal.compression, common):
        value = environ.get(variable, "").strip().lower()
        if value:
            break
    if value in {"", "gzip"}:
        return {}
    if value != "none" and warn is not None:
        warn(
            f"{variable}: gRPC has no {shown(value)}, so nothing is compressed. Write gzip or none"
        )
    grpc = importlib.import_module("grpc")
    return {"compression": grpc.Compression.NoCompression}


def check_url(source: str, url: str, *, base: bool, port: int = 4318) -> None:
    """Check the URL of an OTLP receiver.

    Args:
        source: ``endpoint``, or the name of the variable.
        url: Its value.
        base: True if a path is appended to it.
        port: The port that a message proposes where the value has none.

    Raises:
        WrongArgument: The caller's cannot be used; the message says what to write.
        ValueError: A variable's cannot.
    """
    quoted = shown(url)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        usable = usable and not may_hold_password(parts)
    except ValueError:
        parts, usable = SplitResult("", "", "", "", ""), False
    wrong = WrongArgument if source == "endpoint" else ValueError
    if not usable:
        place = _PLACE.fullmatch(url)
        instead = f"http://localhost:{port}"
        if place is not None and shown(url) == repr(url):
            instead = f"http://{place['host']}:{place['port'] or port}{place['path']}"
        raise wrong(f"{source} is no URL of HTTP: {quoted}. Write {instead!r}")
    if not base:
        return
    for signal in (TRACES, METRICS):
        if parts.path.rstrip("/").endswith(signal.path):
            raise wrong(f"{source} is a base URL: {quoted}. Leave {signal.path} out")
    if parts.query or parts.fragment:
        raise wrong(f"{source} is a base URL. Leave out what follows its path, from ? or # on")


def check_header(name: str, value: str) -> None:
    """Check a header of the caller's.

    One that cannot be sent would fail with each export, in words of the exporter that quote it. The
    message does not show the value, which may be a key.

    Raises:
        WrongArgument: It cannot be sent.
    """
    if not (name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()):
        raise WrongArgument(f"headers: no name of a header: {shown(name)}. Write 'authorization'")
    if not (value.isascii() and value.isprintable() and value == value.strip()):
        raise WrongArgument(
            f"headers: the value of {shown(name)} cannot be sent. Leave out line breaks, what is "
            "no ASCII, and blanks at its ends"
        )
