"""Sends one span or one metric, and finds why the receiver did not accept it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_ENDPOINT

from assisters_otel.cli.captured_log import captured_log
from assisters_otel.cli.doctor.finding import Finding
from assisters_otel.providers.build import build_providers
from assisters_otel.providers.signals import METRICS, TRACES
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assisters_otel.cli.doctor.proxy import Proxy
    from assisters_otel.providers.signals import Signal

SERVICE: Final = "assisters-otel-doctor"
"""The service name of what is sent."""

_DELIVERY_S: Final = 10.0
"""The limit of an export: the exporters' own default timeout."""

_REASON: Final = re.compile(r"\((.*)\)")
"""The reason in a warning of the library: from the first bracket to the last."""

_ADVICE: Final = (
    (
        re.compile(r"\w+ (names|holds) a|the receiver's certificate is not trusted"),
        "Correct that where the app runs: the collector was asked for nothing.",
    ),
    (
        re.compile(r"HTTP (redirect|3\d\d)\b|.*, after a redirect"),
        (
            "Name the receiver itself in OTEL_EXPORTER_OTLP_ENDPOINT: only HTTP 307 and 308 are "
            "followed, and without the headers if it is another host."
        ),
    ),
    (
        re.compile(r"HTTP 40[13]\b|UNAUTHENTICATED|PERMISSION_DENIED"),
        (
            "Set OTEL_EXPORTER_OTLP_HEADERS to what the receiver asks for, for example "
            "authorization=Bearer%20KEY."
        ),
    ),
    (
        re.compile(r"HTTP 40[45]\b|.* with an HTML page"),
        (
            "That is no OTLP receiver's {url}: is it the collector's OTLP/HTTP port (4318), "
            "and does the path end {ends} {path}?"
        ),
    ),
    (
        re.compile(r"SSLError: .*(WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|PACKET_LENGTH)"),
        "The receiver speaks no TLS: write http:// in place of https://.",
    ),
    (re.compile(r"\d+ rejected"), "The receiver is there: its own log says why it rejects them."),
    (
        re.compile("UNIMPLEMENTED"),
        "That is no OTLP receiver: is it the collector's OTLP/gRPC port (4317)?",
    ),
)
"""The advice by the reason why an export was not accepted. The first match is taken."""

_OTHER_ADVICE: Final = "Look at the collector's log: is it there, and is it an OTLP receiver?"


def has_endpoint(signal: Signal, endpoint: str | None, environ: Mapping[str, str]) -> bool:
    """Return True if an option or a variable names an endpoint for the signal.

    The default endpoint does not count: any program of this machine may listen there.
    """
    variables = (signal.endpoint, OTEL_EXPORTER_OTLP_ENDPOINT)
    return bool(endpoint) or any(environ.get(variable, "").strip() for variable in variables)


def check_delivery(
    signal: Signal, endpoint: str | None, environ: Mapping[str, str], proxy: Proxy | None = None
) -> Finding:
    """Send one span or one metric, and return whether the receiver accepted it.

    Args:
        signal: The signal to send.
        endpoint: The base URL of an OTLP receiver; None for the one in the variables.
        environ: The environment variables.
        proxy: The proxy on the way, or None.
    """
    try:
        built = build_providers(
            traces=signal is TRACES,
            metrics=signal is METRICS,
            service_name=SERVICE,
            endpoint=endpoint,
            headers=None,
            protocol=None,
            warn=lambda _: None,  # it has a finding of its own (`variables`)
        )
    except ValueError as error:
        return Finding("arrival", False, f"{signal.name}: {error}", "Correct the variable.")
    if built.tracer_provider is not None:
        built.tracer_provider.get_tracer(names.SCOPE).start_span("doctor").end()
    if built.meter_provider is not None:
        built.meter_provider.get_meter(names.SCOPE).create_counter("doctor").add(1)
    with captured_log() as lines:
        accepted = built.shutdown(_DELIVERY_S)
    if accepted:
        what = f"a test of the {signal.telemetry} was accepted, service {SERVICE}"
        return Finding("arrival", True, what)
    reasons = list(dict.fromkeys(match[1] for match in map(_REASON.search, lines) if match))
    why = f": {', '.join(reasons)}" if reasons else ""
    is_whole = endpoint is None and bool(environ.get(signal.endpoint, "").strip())
    advice = _advice(signal, reasons, is_whole=is_whole)
    if proxy is not None:
        advice = f"It may be {proxy} that refuses. {proxy.advice} Otherwise: {advice}"
    return Finding(
        "arrival", False, f"the {signal.telemetry} were not accepted{why}", advice
    )  # fmt: skip


def _advice(signal: Signal, reasons: list[str], *, is_whole: bool) -> str:
    """Return what to do.

    Args:
        signal: The signal that was not accepted.
        reasons: The reasons in the library's warnings: ``HTTP 401``, ``3 rejected``.
        is_whole: True if the URL is the signal's own, to which no path is appended.
    """
    found = (
        advice for pattern, advice in _ADVICE if any(pattern.match(reason) for reason in reasons)
    )
    url, ends = ("URL", "in") if is_whole else ("base URL", "before")
    return next(found, _OTHER_ADVICE).format(url=url, ends=ends, path=signal.path)
