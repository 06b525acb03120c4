"""Checks the exporters and their receivers: settings, certificates, connection, protocol."""

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
from assisters_otel.cli.doctor.proxy import proxy_for
from assisters_otel.providers import entry_points, exporter_specs, otlp_grpc, tls_files
from assisters_otel.providers.otlp_settings import OtlpArguments
from assisters_otel.providers.signals import METRICS, TRACES
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from assisters_otel.cli.doctor.proxy import Proxy
    from assisters_otel.providers.exporter_specs import ExporterSpec
    from assisters_otel.providers.signals import Signal

_SIGNALS: Final = (TRACES, METRICS)
_TIMEOUT_S: Final = 3.0
"""The limit of a connection, and of an answer. A person waits for it, once per signal."""

# An HTTP/2 server sends a SETTINGS frame first, unasked. Source: RFC 9113, section 3.4.
_SETTINGS_FRAME: Final = 4
_FRAME_TYPE_AT: Final = 3


def check_collector(endpoint: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the SDK, the sampler and each signal's exporters, and send a test of each signal.

    A signal is tested if all its findings are fine, and an endpoint is named for it: what
    listens at the default endpoint may be anything.

    Args:
        endpoint: The base URL of an OTLP receiver; None for the one in the variables.
        environ: The environment variables.

    Yields:
        The findings.
    """
    sdk, sampler = _sdk(environ), _sampler()
    yield sdk
    yield sampler
    off: list[Signal] = []
    tested: list[tuple[Signal, Sequence[ExporterSpec]]] = []
    untested: list[Signal] = []
    for signal in _SIGNALS:
        try:
            specs = exporter_specs.exporter_specs(signal, OtlpArguments(endpoint))
        except ValueError as error:
            yield Finding(signal.name, False, str(error), "Correct it.")
            continue
        has_endpoint = delivery.has_endpoint(signal, endpoint, environ)
        findings = [_check_endpoint(signal, spec, has_endpoint=has_endpoint) for spec in specs]
        findings += [one for spec in specs for one in _certificates(signal, spec)]
        yield from findings or [_no_exporter(signal)]
        if not specs:
            off.append(signal)
        elif all(finding.fine for finding in findings) and not any(map(_is_printed, specs)):
            is_default = not has_endpoint and any(map(_has_url, specs))
            if is_default:
                untested.append(signal)
            else:
                tested.append((signal, specs))
    if len(off) == len(_SIGNALS):
        yield Finding(
            "exporters", False, "neither spans nor metrics leave the process",
            f"Unset {' or '.join(signal.exporter for signal in off)}, or write otlp.",
        )  # fmt: skip
    if untested:
        what = " and ".join(signal.telemetry for signal in untested)
        yield Finding(
            "arrival", True,
            f"no test of the {what} was sent, since no endpoint is named: whoever listens at the "
            "default one may be anybody. To try it: doctor --endpoint http://localhost:4318",
        )  # fmt: skip
    for signal, tried in tested:
        if sdk.fine and (sampler.fine or signal is not TRACES):
            proxy = next(filter(None, map(_proxy, tried)), None)
            yield delivery.check_delivery(signal, endpoint, environ, proxy)


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
    """Check the certificates that the exporter needs, if it uses TLS."""
    endpoint = str(spec.arguments.get("endpoint"))
    texts: list[str] = []
    if spec.name == config.PROTOCOLS["grpc"]:
        try:
            otlp_grpc.settings(signal.name, endpoint)
        except ValueError as error:
            texts.append(str(error))
    elif endpoint.startswith("https:"):
        texts += [fault.text for fault in tls_files.faults(signal.name, by_grpc=False)]
        two = tls_files.competing_bundles(signal.name)
        if two is not None:
            yield Finding(
                "certificate", True,
                f"{two[0]} is set beside {two[1]}, and wins over it with exporters from 1.45 on",
            )  # fmt: skip
    for text in texts:
        yield Finding("certificate", False, text, "Correct the variable, or mount the file.")


def _no_exporter(signal: Signal) -> Finding:
    what = f"none: no {signal.telemetry} leave the process, as {signal.exporter} says"
    return Finding(signal.name, True, what)


def _is_printed(spec: ExporterSpec) -> bool:
    """Return True if the exporter prints, and a test would print between the findings."""
    return issubclass(spec.kind, (ConsoleSpanExporter, ConsoleMetricExporter))


def _has_url(spec: ExporterSpec) -> bool:
    """Return True if the exporter sends to a URL, as those of OTLP do."""
    return isinstance(spec.arguments.get("endpoint"), str)


def _check_endpoint(signal: Signal, spec: ExporterSpec, *, has_endpoint: bool) -> Finding:
    """Check that the receiver answers, or the proxy on the way to it.

    Args:
        signal: The signal.
        spec: The exporter.
        has_endpoint: True if the receiver is named, so that a request may be sent to it.
    """
    by = _by(signal, spec)
    url = spec.arguments.get("endpoint")
    if not isinstance(url, str):
        untested = "; not tried: it would print here" if _is_printed(spec) else ""
        return Finding(signal.name, True, f"exported by {by}{untested}")
    try:
        proxy = _proxy(spec)
    except ValueError as error:
        return Finding(signal.name, False, str(error), "Correct the variable.")
    if proxy is not None:
        return _check_proxy(signal, spec, proxy)
    return _check_receiver(signal, spec, url, has_endpoint=has_endpoint)


def _by(signal: Signal, spec: ExporterSpec) -> str:
    """Return what exports, and where to."""
    return spec.text.removeprefix(f"{signal.name}: ")


def _check_receiver(signal: Signal, spec: ExporterSpec, url: str, *, has_endpoint: bool) -> Finding:
    """Check that the receiver answers, and with the protocol that the exporter speaks."""
    by = _by(signal, spec)
    is_grpc = "grpc" in by.split()[0]
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        port = parts.port or (443 if parts.scheme == "https" else 4317 if is_grpc else 80)
    except ValueError as error:
        return Finding(signal.name, False, f"{spec.place}: {error}", "Correct the endpoint.")
    try:
        is_plain = has_endpoint and parts.scheme != "https"
        spoken = _protocol_spoken(parts.hostname or "", port, is_plain=is_plain)
    except OSError as error:
        return Finding(
            signal.name, False, f"nothing answers at {spec.place}: {error.strerror or error}",
            "Start the collector, or name another with OTEL_EXPORTER_OTLP_ENDPOINT.",
        )  # fmt: skip
    if spoken == "http/2" and not is_grpc:
        return Finding(
            signal.name, False, f"{spec.place} speaks gRPC, and is sent OTLP over HTTP",
            "Name the collector's HTTP port (4318), or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc.",
        )  # fmt: skip
    if spoken == "http/1" and is_grpc:
        return Finding(
            signal.name, False, f"{spec.place} speaks HTTP, and is sent OTLP over gRPC",
            "Name the collector's gRPC port (4317), or set "
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf.",
        )  # fmt: skip
    return Finding(signal.name, True, f"exported by {by}")


def _proxy(spec: ExporterSpec) -> Proxy | None:
    """Return the proxy through which an exporter of OTLP over HTTP sends, or None.

    Raises:
        ValueError: The proxy's variable cannot be read.
    """
    is_http = spec.name == config.PROTOCOLS["http/protobuf"]
    return proxy_for(str(spec.arguments.get("endpoint"))) if is_http else None


def _check_proxy(signal: Signal, spec: ExporterSpec, proxy: Proxy) -> Finding:
    """Check that the proxy answers through which the exporter sends."""
    if proxy.leads_astray:
        return Finding(
            signal.name, False, f"{spec.place} is on this machine, and is asked for at {proxy}",
            proxy.advice,
        )  # fmt: skip
    try:
        _protocol_spoken(proxy.host, proxy.port, is_plain=False)
    except OSError as error:
        return Finding(
            signal.name, False, f"nothing answers at {proxy}, on the way to {spec.place}: "
            f"{error.strerror or error}",
            proxy.advice,
        )  # fmt: skip
    return Finding(signal.name, True, f"exported by {_by(signal, spec)}, through {proxy}")


def _protocol_spoken(host: str, port: int, *, is_plain: bool) -> str | None:
    """Connect, and return the protocol of the server: ``http/1``, ``http/2``, None if unknown.

    Args:
        host: The server's host.
        port: The server's port.
        is_plain: True to send a request in plain text. Otherwise nothing is sent.

    Raises:
        OSError: No connection can be made.
    """
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
        if not is_plain:
            return None
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n")
            start = connection.recv(16)
        except OSError:
            return None
    if start.startswith(b"HTTP/"):
        return "http/1"
    is_frame = len(start) > _FRAME_TYPE_AT and start[_FRAME_TYPE_AT] == _SETTINGS_FRAME
    return "http/2" if is_frame else None
