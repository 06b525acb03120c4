"""Which exporters the arguments and the ``OTEL_*`` variables ask for, and how to make them.

Source: OpenTelemetry's environment variables, read as the SDK's own auto-configuration
reads them, but for two things: OTLP goes by HTTP unless somebody says otherwise, and a
value that cannot be used is an error that says what to write.
"""

from __future__ import annotations

import importlib
import re
from os import environ
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

from opentelemetry import environment_variables as api_variables
from opentelemetry.sdk import environment_variables as sdk_variables
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
from opentelemetry.sdk.trace.export import SpanExporter

from assisters_otel.api.redaction import shown
from assisters_otel.config import PROTOCOLS, WrongArgument
from assisters_otel.hosts import may_hold_password
from assisters_otel.quiet import Destination, Reach
from assisters_otel.registered import load
from assisters_otel.variables.corrections import corrected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from assisters_otel.registered import Tell

Made = TypeVar("Made")

_GRPC: Final = PROTOCOLS["grpc"]
_HTTP: Final = PROTOCOLS["http/protobuf"]
_OTLP: Final = ("otlp", *PROTOCOLS.values())
_PLACE: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+)(?::(?P<port>\d+))?(?P<path>(?:/[^@\s]*)?)")
"""A URL without its scheme."""


class Signal(NamedTuple):
    """What differs between traces and metrics.

    Attributes:
        name: ``traces``.
        what: What is lost when nobody takes them: ``spans``.
        path: What OTLP over HTTP appends to a base URL.
        group: Where exporters are registered.
        exporter, protocol, endpoint, compression: The variables.
    """

    name: str
    what: str
    path: str
    group: str
    exporter: str
    protocol: str
    endpoint: str
    compression: str


TRACES: Final = Signal(
    "traces",
    "spans",
    "/v1/traces",
    "opentelemetry_traces_exporter",
    api_variables.OTEL_TRACES_EXPORTER,
    sdk_variables.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    sdk_variables.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    sdk_variables.OTEL_EXPORTER_OTLP_TRACES_COMPRESSION,
)
METRICS: Final = Signal(
    "metrics",
    "metrics",
    "/v1/metrics",
    "opentelemetry_metrics_exporter",
    api_variables.OTEL_METRICS_EXPORTER,
    sdk_variables.OTEL_EXPORTER_OTLP_METRICS_PROTOCOL,
    sdk_variables.OTEL_EXPORTER_OTLP_METRICS_ENDPOINT,
    sdk_variables.OTEL_EXPORTER_OTLP_METRICS_COMPRESSION,
)


class Arguments(NamedTuple):
    """What the caller said about OTLP; what is None is left to the variables."""

    endpoint: str | None = None
    headers: Mapping[str, str] | None = None
    protocol: str | None = None

    def __repr__(self) -> str:
        return f"Arguments(protocol={self.protocol!r})"  # the others may hold a secret


class Route(NamedTuple):
    """One exporter that is asked for.

    Attributes:
        kind: Its class.
        text: For people: ``traces: otlp_proto_http http://localhost:4318/v1/traces``.
        place: What a warning calls it: ``http://localhost:4318``.
        arguments: What it is made with. They may hold a key.
        name: What it is registered as.
    """

    kind: type[object]
    text: str
    place: str
    arguments: Mapping[str, object]
    name: str = ""

    def __repr__(self) -> str:
        return f"Route({self.text!r})"

    def destination(self, signal: Signal, reaches: dict[str, Reach]) -> Destination:
        """Make a destination, which shares its place with those in *reaches*."""
        reach = reaches.setdefault(self.place, Reach(self.place))
        return Destination(signal.what, self.text, reach)

    def span_exporter(self) -> SpanExporter:
        """Make the exporter.

        Raises:
            ValueError: It refuses its settings.
        """
        return self._made(cast("Callable[..., SpanExporter]", self.kind))

    def metric_exporter(self) -> MetricExporter:
        """Make the exporter. Raises what `span_exporter` raises."""
        return self._made(cast("Callable[..., MetricExporter]", self.kind))

    def metric_reader(self) -> MetricReader:
        """Make the reader. Raises what `span_exporter` raises."""
        return self._made(cast("Callable[..., MetricReader]", self.kind))

    def _made(self, kind: Callable[..., Made]) -> Made:
        watch, more = self._watching()
        try:
            with corrected():  # also in a forked process, which makes its own
                made = kind(**self.arguments, **more)
        except Exception as error:
            raise ValueError(
                f"the exporter of '{self.text}' cannot be made: {type(error).__name__}: {error}. "
                "Look at the variables OTEL_EXPORTER_*"
            ) from error
        if watch is not None:
            watch(made)
        return made

    def _watching(self) -> tuple[Callable[[object], None] | None, dict[str, object]]:
        """Return what makes an exporter see what is not taken: an act, or further arguments."""
        signal, endpoint = self.text.partition(":")[0], str(self.arguments.get("endpoint"))
        if self.name == _HTTP:
            from assisters_otel import otlp_http  # noqa: PLC0415 - not before it is asked for

            return None, {"session": otlp_http.session(signal, endpoint)}
        if self.name == _GRPC:
            from assisters_otel import otlp_grpc  # noqa: PLC0415 - not before it is asked for

            return otlp_grpc.watch, otlp_grpc.settings(signal, endpoint)
        return None, {}


def check(arguments: Arguments) -> None:
    """Check what the caller said, whether it is used or not.

    Raises:
        WrongArgument: Something of it cannot be used; the message says what to write.
    """
    for name, value in (arguments.headers or {}).items():
        _check_header(name, value)
    if arguments.endpoint is not None:
        is_grpc = arguments.protocol == "grpc"
        _check_url(
            "endpoint", arguments.endpoint.strip(), base=True, port=4317 if is_grpc else 4318
        )


def routes(signal: Signal, arguments: Arguments, tell: Tell | None = None) -> tuple[Route, ...]:
    """Read which exporters a signal is to have.

    An argument means OTLP: where the variable lists exporters without it, ``console``
    say, OTLP takes their place. ``none`` stays none, since it does not say where to
    export but whether.

    Args:
        signal: Traces or metrics.
        arguments: Of the caller's.
        tell: Gets what is wrong with one exporter, if the others are to do without it.

    Raises:
        ValueError: One of the values cannot be used, and nobody to tell, or no other exporter; the
            message says what to write.
    """
    check(arguments)
    made, wrong = [], []
    for name in _exporters(signal, arguments):
        try:
            made.append(_route(signal, name, arguments, tell))
        except ValueError as error:  # noqa: PERF203 - one or two of them
            if isinstance(error, WrongArgument):
                raise
            wrong.append(error)
    if wrong and (tell is None or not made):
        raise wrong[0]
    if tell is not None:
        for each in wrong:
            tell(f"{each}. Only the others of {signal.exporter} are used")
    return tuple(made)


def _exporters(signal: Signal, arguments: Arguments) -> Iterator[str]:
    listed = [name.strip() for name in environ.get(signal.exporter, "").split(",")]
    asked = [name for name in dict.fromkeys(listed) if name] or ["otlp"]
    if asked == ["none"]:
        return
    if "none" in asked:
        raise ValueError(
            f"{signal.exporter}: 'none' is alone or not at all. Write 'none' or 'otlp'"
        )
    if any(arguments) and not any(name in _OTLP for name in asked):
        asked = ["otlp"]
    protocol = arguments.protocol
    # Two names may come down to one exporter: "otlp,otlp_proto_http".
    yield from dict.fromkeys(
        _by_protocol(signal, protocol) if name == "otlp" or (protocol and name in _OTLP) else name
        for name in asked
    )


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


def _route(signal: Signal, name: str, arguments: Arguments, tell: Tell | None) -> Route:
    kinds = (SpanExporter,) if signal is TRACES else (MetricExporter, MetricReader)
    try:
        kind = load(signal.group, name, signal.exporter, ("none", "otlp"))
    except ValueError as error:
        if name == _GRPC and arguments.protocol == "grpc":
            raise WrongArgument(*error.args) from error
        raise
    if not (isinstance(kind, type) and issubclass(kind, kinds)):
        raise ValueError(f"{signal.exporter}: {shown(name)} exports no {signal.name}. Write 'otlp'")
    if name not in _OTLP:
        return Route(kind, f"{signal.name}: {name}", f"the exporter {name}", {})
    endpoint = _endpoint(signal, name, arguments.endpoint)
    made_with: dict[str, object] = {"endpoint": endpoint}
    if name == _GRPC:
        made_with |= _grpc_compression(signal, tell)
    if arguments.headers:
        # gRPC refuses capital letters in the name of a header.
        made_with["headers"] = {key.lower(): value for key, value in arguments.headers.items()}
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    host = parts.netloc.rpartition("@")[2]
    place = f"{parts.scheme}://{host}" if parts.scheme else host
    return Route(kind, f"{signal.name}: {name} {place}{parts.path}", place, made_with, name)


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
