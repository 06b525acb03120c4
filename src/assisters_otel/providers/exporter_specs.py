"""Which exporters the arguments and the ``OTEL_*`` variables ask for, and how to make them.

Source: OpenTelemetry's environment variables, read as the SDK's own auto-configuration
reads them, but for two things: OTLP goes by HTTP unless somebody says otherwise, and a
value that cannot be used is an error that says what to write.
"""

from __future__ import annotations

from os import environ
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
from opentelemetry.sdk.trace.export import SpanExporter

from assisters_otel.api.redaction import shown
from assisters_otel.config import WrongArgument
from assisters_otel.providers.delivery import DeliveryState, Receiver
from assisters_otel.providers.entry_points import load_entry_point
from assisters_otel.providers.otlp_settings import (
    _GRPC,
    _HTTP,
    _OTLP,
    OtlpArguments,
    _by_protocol,
    _check_header,
    _check_url,
    _endpoint,
    _grpc_compression,
)
from assisters_otel.providers.signals import TRACES, Signal
from assisters_otel.variables.corrections import corrected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from assisters_otel.providers.entry_points import Tell

Made = TypeVar("Made")


class ExporterSpec(NamedTuple):
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

    def destination(self, signal: Signal, reaches: dict[str, Receiver]) -> DeliveryState:
        """Make a destination, which shares its place with those in *reaches*."""
        reach = reaches.setdefault(self.place, Receiver(self.place))
        return DeliveryState(signal.what, self.text, reach)

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
            from assisters_otel.providers import otlp_http  # noqa: PLC0415 - not before it is asked for

            return None, {"session": otlp_http.session(signal, endpoint)}
        if self.name == _GRPC:
            from assisters_otel.providers import otlp_grpc  # noqa: PLC0415 - not before it is asked for

            return otlp_grpc.watch, otlp_grpc.settings(signal, endpoint)
        return None, {}


def check(arguments: OtlpArguments) -> None:
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


def exporter_specs(
    signal: Signal, arguments: OtlpArguments, tell: Tell | None = None
) -> tuple[ExporterSpec, ...]:
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


def _exporters(signal: Signal, arguments: OtlpArguments) -> Iterator[str]:
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


def _route(signal: Signal, name: str, arguments: OtlpArguments, tell: Tell | None) -> ExporterSpec:
    kinds = (SpanExporter,) if signal is TRACES else (MetricExporter, MetricReader)
    try:
        kind = load_entry_point(signal.group, name, signal.exporter, ("none", "otlp"))
    except ValueError as error:
        if name == _GRPC and arguments.protocol == "grpc":
            raise WrongArgument(*error.args) from error
        raise
    if not (isinstance(kind, type) and issubclass(kind, kinds)):
        raise ValueError(f"{signal.exporter}: {shown(name)} exports no {signal.name}. Write 'otlp'")
    if name not in _OTLP:
        return ExporterSpec(kind, f"{signal.name}: {name}", f"the exporter {name}", {})
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
    return ExporterSpec(kind, f"{signal.name}: {name} {place}{parts.path}", place, made_with, name)
