"""Which exporters the arguments and the ``OTEL_*`` variables ask for, and how to make them.

Source: OpenTelemetry's environment variables, read as the SDK's own auto-configuration reads them,
but for two things. OTLP goes over HTTP unless a variable or an argument says otherwise. A value
that cannot be used is an error that says what to write.
"""

from __future__ import annotations

from os import environ
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
from opentelemetry.sdk.trace.export import SpanExporter

from assisters_otel.api.redaction import shown
from assisters_otel.config import WrongArgument
from assisters_otel.providers.delivery import DeliveryState, Receiver
from assisters_otel.providers.entry_points import load_entry_point
from assisters_otel.providers.otlp_settings import (
    GRPC,
    HTTP,
    OTLP,
    OtlpArguments,
    check_header,
    check_url,
    grpc_compression,
    otlp_endpoint,
    otlp_exporter,
)
from assisters_otel.providers.signals import TRACES, Signal
from assisters_otel.records import Record
from assisters_otel.variables.corrections import corrected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from assisters_otel.providers.entry_points import Warn

Made = TypeVar("Made")


class ExporterSpec(Record):
    """One exporter that is asked for, and its settings.

    Attributes:
        kind: Its class.
        text: For people: ``traces: otlp_proto_http http://localhost:4318/v1/traces``.
        place: The receiver as a warning names it, ``http://localhost:4318``.
        arguments: The arguments of the class. They may hold a key.
        name: The name of its entry point. It is empty unless the exporter is one of OTLP.
    """

    kind: type[object]
    text: str
    place: str
    arguments: Mapping[str, object]
    name: str = ""

    def __repr__(self) -> str:
        return f"ExporterSpec({self.text!r})"

    def delivery(self, signal: Signal, receivers: dict[str, Receiver]) -> DeliveryState:
        """Return a delivery for the exporter, to the receiver of its place in *receivers*."""
        receiver = receivers.setdefault(self.place, Receiver(self.place))
        return DeliveryState(signal.telemetry, self.text, receiver)

    def span_exporter(self, delivery: DeliveryState) -> SpanExporter:
        """Return a new exporter.

        Args:
            delivery: Gets the answers that the exporter of OTLP gets.

        Raises:
            ValueError: The exporter refuses its settings.
        """
        return self._instantiate(cast("Callable[..., SpanExporter]", self.kind), delivery)

    def metric_exporter(self, delivery: DeliveryState) -> MetricExporter:
        """Return a new exporter, as `span_exporter` does."""
        return self._instantiate(cast("Callable[..., MetricExporter]", self.kind), delivery)

    def metric_reader(self) -> MetricReader:
        """Return a new reader, for an exporter that is pulled, such as Prometheus'.

        Raises:
            ValueError: The reader refuses its settings.
        """
        return self._instantiate(cast("Callable[..., MetricReader]", self.kind), None)

    def _instantiate(self, kind: Callable[..., Made], delivery: DeliveryState | None) -> Made:
        watch, more = (None, {}) if delivery is None else self._watched_by(delivery)
        try:
            with corrected():  # a forked process makes an exporter outside of `init`
                made = kind(**self.arguments, **more)
        except Exception as error:
            raise ValueError(
                f"the exporter of '{self.text}' cannot be made: {type(error).__name__}: {error}. "
                "Look at the variables OTEL_EXPORTER_*"
            ) from error
        if watch is not None:
            watch(made)
        return made

    def _watched_by(
        self, delivery: DeliveryState
    ) -> tuple[Callable[[object], None] | None, dict[str, object]]:
        """Return how *delivery* gets each answer: by a call with the exporter, or by arguments."""
        signal, endpoint = self.text.partition(":")[0], str(self.arguments.get("endpoint"))
        if self.name == HTTP:
            from assisters_otel.providers import otlp_http  # noqa: PLC0415 - imports requests

            return None, {"session": otlp_http.session(signal, endpoint, delivery.note_answer)}
        if self.name == GRPC:
            from assisters_otel.providers import otlp_grpc  # noqa: PLC0415 - used by the extra alone

            def watch(exporter: object) -> None:
                otlp_grpc.watch(exporter, delivery.note_answer)

            return watch, otlp_grpc.settings(signal, endpoint)
        return None, {}


def check(arguments: OtlpArguments) -> None:
    """Check the caller's arguments, whether they are used or not.

    Raises:
        WrongArgument: One of them cannot be used; the message says what to write.
    """
    for name, value in (arguments.headers or {}).items():
        check_header(name, value)
    if arguments.endpoint is not None:
        is_grpc = arguments.protocol == "grpc"
        check_url("endpoint", arguments.endpoint.strip(), base=True, port=4317 if is_grpc else 4318)


def exporter_specs(
    signal: Signal, arguments: OtlpArguments, warn: Warn | None = None
) -> tuple[ExporterSpec, ...]:
    """Return the exporters that a signal is to have.

    An argument means OTLP: it replaces exporters of the variable, ``console`` say, if OTLP is not
    among them. ``none`` in the variable stays none. It says whether to export, not where to.

    Args:
        signal: Traces or metrics.
        arguments: The caller's.
        warn: Gets what is wrong with one exporter of several. Then the others are returned. None:
            raise it.

    Raises:
        ValueError: A value cannot be used, and *warn* is None or no exporter is left. The message
            says what to write.
    """
    check(arguments)
    specs, errors = [], []
    for name in _names(signal, arguments):
        try:
            specs.append(_spec(signal, name, arguments, warn))
        except ValueError as error:  # noqa: PERF203 - one or two of them
            if isinstance(error, WrongArgument):
                raise
            errors.append(error)
    if errors and (warn is None or not specs):
        raise errors[0]
    if warn is not None:
        for each in errors:
            warn(f"{each}. Only the others of {signal.exporter} are used")
    return tuple(specs)


def _names(signal: Signal, arguments: OtlpArguments) -> Iterator[str]:
    """Return the names of the entry points; of OTLP by its protocol, ``otlp_proto_http``."""
    listed = [name.strip() for name in environ.get(signal.exporter, "").split(",")]
    names = [name for name in dict.fromkeys(listed) if name] or ["otlp"]
    if names == ["none"]:
        return
    if "none" in names:
        raise ValueError(
            f"{signal.exporter}: 'none' is alone or not at all. Write 'none' or 'otlp'"
        )
    if any(arguments) and not any(name in OTLP for name in names):
        names = ["otlp"]
    protocol = arguments.protocol
    # Two names may be one exporter: "otlp,otlp_proto_http".
    yield from dict.fromkeys(
        otlp_exporter(signal, protocol) if name == "otlp" or (protocol and name in OTLP) else name
        for name in names
    )


def _spec(signal: Signal, name: str, arguments: OtlpArguments, warn: Warn | None) -> ExporterSpec:
    kinds = (SpanExporter,) if signal is TRACES else (MetricExporter, MetricReader)
    try:
        kind = load_entry_point(signal.group, name, signal.exporter, ("none", "otlp"))
    except ValueError as error:
        if name == GRPC and arguments.protocol == "grpc":
            raise WrongArgument(*error.args) from error
        raise
    if not (isinstance(kind, type) and issubclass(kind, kinds)):
        raise ValueError(f"{signal.exporter}: {shown(name)} exports no {signal.name}. Write 'otlp'")
    if name not in OTLP:
        return ExporterSpec(kind, f"{signal.name}: {name}", f"the exporter {name}", {})
    endpoint = otlp_endpoint(signal, name, arguments.endpoint)
    settings: dict[str, object] = {"endpoint": endpoint}
    if name == GRPC:
        settings |= grpc_compression(signal, warn)
    if arguments.headers:
        # gRPC refuses a capital letter in the name of a header.
        settings["headers"] = {key.lower(): value for key, value in arguments.headers.items()}
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    host = parts.netloc.rpartition("@")[2]
    place = f"{parts.scheme}://{host}" if parts.scheme else host
    return ExporterSpec(kind, f"{signal.name}: {name} {place}{parts.path}", place, settings, name)
