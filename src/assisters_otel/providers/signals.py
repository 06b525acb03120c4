"""The two signals, traces and metrics, and what differs between them."""

from __future__ import annotations

from typing import Final

from opentelemetry import environment_variables as api_variables
from opentelemetry.sdk import environment_variables as sdk_variables

from assisters_otel.records import Record


class Signal(Record):
    """The names in which traces and metrics differ.

    Attributes:
        name: ``traces``.
        telemetry: The things that are exported, ``spans``.
        path: The path that OTLP over HTTP appends to a base URL.
        group: The entry point group of the exporters.
        exporter, protocol, endpoint, compression: The names of the variables.
    """

    name: str
    telemetry: str
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
