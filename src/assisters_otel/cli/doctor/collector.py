"""What `doctor` sees of the way to the backend: is it open, who is there, what do they speak."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk import environment_variables as variables
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from opentelemetry.sdk.trace.sampling import Decision

from assisters_otel import config
from assisters_otel.cli.doctor import delivery
from assisters_otel.cli.doctor.finding import Finding
from assisters_otel.providers import entry_points, exporter_specs, otlp_grpc, tls_files
from assisters_otel.providers.otlp_settings import OtlpArguments
from assisters_otel.providers.signals import METRICS, TRACES
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from assisters_otel.providers.exporter_specs import ExporterSpec
    from assisters_otel.providers.signals import Signal

_SIGNALS: Final = (TRACES, METRICS)
_TIMEOUT_S: Final = 3.0
# What an HTTP/2 server sends first, unasked: SETTINGS. Source: RFC 9113, section 3.4.
_SETTINGS_FRAME: Final = 4
_FRAME_TYPE_AT: Final = 3


def check_collector(endpoint: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look along the way, and send a test of each signal whose way is open.

    Args:
        endpoint: The base URL of an OTLP receiver; None for the variables'.
        environ: The variables.
    """
    sdk, sampler = _sdk(environ), _sampler()
    yield sdk
    yield sampler
    off: list[Signal] = []
    ready: list[Signal] = []
    untried: list[Signal] = []
    for signal in _SIGNALS:
        try:
            specs = exporter_specs.exporter_specs(signal, OtlpArguments(endpoint))
        except ValueError as error:
            yield Finding(signal.name, False, str(error), "Correct it.")
            continue
        has_endpoint = delivery.has_endpoint(signal, endpoint, environ)
        ways = [_check_endpoint(signal, spec, has_endpoint=has_endpoint) for spec in specs]
        ways = ways or [_no_exporter(signal)]
        ways += [one for spec in specs for one in _certificates(signal, spec)]
        yield from ways
        if not specs:
            off.append(signal)
        elif all(one.fine for one in ways) and not any(map(_is_printed, specs)):
            (ready if has_endpoint or not any(map(_is_default, specs)) else untried).append(signal)
    if len(off) == len(_SIGNALS):
        yield Finding(
            "exporters", False, "neither spans nor metrics leave the process",
            f"Unset {' or '.join(signal.exporter for signal in off)}, or write otlp.",
        )  # fmt: skip
    if untried:
        what = " and ".join(signal.what for signal in untried)
        yield Finding(
            "arrival", True,
            f"no test of the {what} was sent, since no endpoint is named: whoever listens at the "
            "default one may be anybody. To try it: doctor --endpoint http://localhost:4318",
        )  # fmt: skip
    for signal in ready:
        if sdk.fine and (sampler.fine or signal is not TRACES):
            yield delivery.check_delivery(signal, endpoint, environ)


def _sdk(environ: Mapping[str, str]) -> Finding:
    if config.sdk_disabled(environ):
        return Finding(
            "SDK", False,
            f"{environment.OTEL_SDK_DISABLED} is true: nothing is patched, nothing sent",
            f"Unset {environment.OTEL_SDK_DISABLED}.",
        )  # fmt: skip
    return Finding("SDK", True, "not disabled")


def _sampler() -> Finding:
    try:
        made = entry_points.sampler()
    except ValueError as error:
        return Finding("sampler", False, str(error), "Correct the variable.")
    # The first of all trace ids is kept by every ratio above 0.
    if made is not None and made.should_sample(Context(), 0, "x").decision is Decision.DROP:
        return Finding(
            "sampler", False, f"{variables.OTEL_TRACES_SAMPLER} keeps no trace",
            f"Unset {variables.OTEL_TRACES_SAMPLER}, or write parentbased_always_on.",
        )  # fmt: skip
    kept = "every trace is kept" if made is None else made.get_description()
    return Finding("sampler", True, f"{kept}; metrics have all of them")


def _certificates(signal: Signal, spec: ExporterSpec) -> Iterator[Finding]:
    """Look at the files that TLS needs, where it is used."""
    endpoint = str(spec.arguments.get("endpoint"))
    texts: list[str] = []
    if spec.name == config.PROTOCOLS["grpc"]:
        try:
            otlp_grpc.settings(signal.name, endpoint)
        except ValueError as error:
            texts.append(str(error))
    elif endpoint.startswith("https:"):
        texts += [fault.text for fault in tls_files.faults(signal.name, by_grpc=False)]
        two = tls_files.beside(signal.name)
        if two is not None:
            yield Finding(
                "certificate", True,
                f"{two[0]} is set beside {two[1]}, and wins over it with exporters from 1.45 on",
            )  # fmt: skip
    for text in texts:
        yield Finding("certificate", False, text, "Correct the variable, or mount the file.")


def _no_exporter(signal: Signal) -> Finding:
    what = f"none: no {signal.what} leave the process, as {signal.exporter} says"
    return Finding(signal.name, True, what)


def _is_printed(spec: ExporterSpec) -> bool:
    return issubclass(spec.kind, (ConsoleSpanExporter, ConsoleMetricExporter))


def _is_default(spec: ExporterSpec) -> bool:
    """Return True if a spec leads to a receiver that nobody has named."""
    return isinstance(spec.arguments.get("endpoint"), str)


def _check_endpoint(signal: Signal, spec: ExporterSpec, *, has_endpoint: bool) -> Finding:
    by = spec.text.removeprefix(f"{signal.name}: ")
    url = spec.arguments.get("endpoint")
    if not isinstance(url, str):
        told = "; not tried: it would print here" if _is_printed(spec) else ""
        return Finding(signal.name, True, f"exported by {by}{told}")
    is_grpc = "grpc" in by.split()[0]
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        port = parts.port or (443 if parts.scheme == "https" else 4317 if is_grpc else 80)
    except ValueError as error:
        return Finding(signal.name, False, f"{spec.place}: {error}", "Correct the endpoint.")
    try:
        is_plain = has_endpoint and parts.scheme != "https"
        speaks = _protocol_spoken(parts.hostname or "", port, is_plain=is_plain)
    except OSError as error:
        return Finding(
            signal.name, False, f"nobody answers at {spec.place}: {error.strerror or error}",
            "Start the collector, or name another with OTEL_EXPORTER_OTLP_ENDPOINT.",
        )  # fmt: skip
    if speaks == "http/2" and not is_grpc:
        return Finding(
            signal.name, False, f"{spec.place} speaks gRPC, and is sent OTLP over HTTP",
            "Name the collector's HTTP port (4318), or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc.",
        )  # fmt: skip
    if speaks == "http/1" and is_grpc:
        return Finding(
            signal.name, False, f"{spec.place} speaks HTTP, and is sent OTLP over gRPC",
            "Name the collector's gRPC port (4317), or set "
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf.",
        )  # fmt: skip
    return Finding(signal.name, True, f"exported by {by}")


def _protocol_spoken(host: str, port: int, *, is_plain: bool) -> str | None:
    """Connect, and tell what answers: ``http/1``, ``http/2``, or None if that is not said.

    Args:
        host: Where to.
        port: The same.
        is_plain: Whether to ask, in plain text. Otherwise nothing is sent.

    Raises:
        OSError: Nobody is there.
    """
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
        if not is_plain:
            return None
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n")
            begin = connection.recv(16)
        except OSError:
            return None
    if begin.startswith(b"HTTP/"):
        return "http/1"
    is_frame = len(begin) > _FRAME_TYPE_AT and begin[_FRAME_TYPE_AT] == _SETTINGS_FRAME
    return "http/2" if is_frame else None
