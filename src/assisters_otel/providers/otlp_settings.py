"""Endpoint, headers, protocol and compression of an OTLP exporter."""

from __future__ import annotations

import importlib
import re
from os import environ
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from opentelemetry.sdk import environment_variables as sdk_variables

from assisters_otel.api.redaction import shown
from assisters_otel.config import PROTOCOLS, WrongArgument
from assisters_otel.hosts import may_hold_password
from assisters_otel.providers.signals import METRICS, TRACES, Signal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assisters_otel.providers.entry_points import Tell

_GRPC: Final = PROTOCOLS["grpc"]
_HTTP: Final = PROTOCOLS["http/protobuf"]
_OTLP: Final = ("otlp", *PROTOCOLS.values())
_PLACE: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+)(?::(?P<port>\d+))?(?P<path>(?:/[^@\s]*)?)")
"""A URL without its scheme."""


class OtlpArguments(NamedTuple):
    """What the caller said about OTLP; what is None is left to the variables."""

    endpoint: str | None = None
    headers: Mapping[str, str] | None = None
    protocol: str | None = None

    def __repr__(self) -> str:
        return f"Arguments(protocol={self.protocol!r})"  # the others may hold a secret


def _by_protocol(signal: Signal, argument: str | None) -> str:
    asked = [("protocol", argument)] + [
        (variable, environ.get(variable, "").strip())
        for variable in (signal.protocol, sdk_variables.OTEL_EXPORTER_OTLP_PROTOCOL)
    ]
    source, protocol = next((pair for pair in asked if pair[1]), ("", "http/protobuf"))
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"{source}: unknown protocol {shown(protocol or '')}. Write 'http/protobuf' or 'grpc'"
        )
    return PROTOCOLS[protocol]


def _endpoint(signal: Signal, name: str, argument: str | None) -> str:
    common = sdk_variables.OTEL_EXPORTER_OTLP_ENDPOINT
    if argument is not None:
        source, endpoint = "endpoint", argument.strip()
    else:
        source = signal.endpoint if environ.get(signal.endpoint, "").strip() else common
        endpoint = environ.get(source, "").strip()
    if name == _GRPC:
        if "@" in endpoint and source != "endpoint":
            raise ValueError(
                f"{source}: gRPC takes no user and password: {shown(endpoint)}. Leave them out"
            )
        return endpoint or "http://localhost:4317"
    endpoint = endpoint or "http://localhost:4318"
    if source != "endpoint":  # which `check` has looked at
        _check_url(source, endpoint, base=source != signal.endpoint)
    return endpoint if source == signal.endpoint else endpoint.rstrip("/") + signal.path


def _grpc_compression(signal: Signal, tell: Tell | None) -> dict[str, object]:
    """Say that nothing is compressed, where a variable says what the gRPC exporter refuses.

    It knows no other word than ``gzip``, not even ``none``.
    """
    common = sdk_variables.OTEL_EXPORTER_OTLP_COMPRESSION
    for variable in (signal.compression, common):
        asked = environ.get(variable, "").strip().lower()
        if asked:
            break
    if asked in {"", "gzip"}:
        return {}
    if asked != "none" and tell is not None:
        tell(
            f"{variable}: gRPC has no {shown(asked)}, so nothing is compressed. Write gzip or none"
        )
    grpc = importlib.import_module("grpc")
    return {"compression": grpc.Compression.NoCompression}


def _check_url(source: str, url: str, *, base: bool, port: int = 4318) -> None:
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


def _check_header(name: str, value: str) -> None:
    # The value may be a key, so it is not shown. What cannot be sent would fail at each
    # export, and the exporter would say so in words which quote it.
    if not (name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()):
        raise WrongArgument(f"headers: no name of a header: {shown(name)}. Write 'authorization'")
    if not (value.isascii() and value.isprintable() and value == value.strip()):
        raise WrongArgument(
            f"headers: the value of {shown(name)} cannot be sent. Leave out line breaks, what is "
            "no ASCII, and blanks at its ends"
        )
