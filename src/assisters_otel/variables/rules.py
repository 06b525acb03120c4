"""What each of OpenTelemetry's variables may hold."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from assisters_otel.variables.values import (
    Rule,
    _detectors,
    _duration,
    _encodable,
    _grpc_codes,
    _headers,
    _one_of,
    _pairs,
    _patterns,
    _propagators,
    _ratio,
    _registered,
    _several,
    _whole,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

TRACES: Final = "traces"
METRICS: Final = "metrics"
_BOTH: Final = (TRACES, METRICS)

_MAX_WAIT_S: Final = threading.TIMEOUT_MAX
"""Longer no thread can wait, and one that tries to ends."""

_MAX_TIMEOUT_S: Final = (2**31 - 1) / 1000
"""Longer no socket can wait: poll takes milliseconds in a C int."""

_QUEUE: Final = "OTEL_BSP_MAX_QUEUE_SIZE"
_BATCH: Final = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_QUEUE_DEFAULT: Final = 2048
_BATCH_DEFAULT: Final = 512
_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
_SAMPLER_ARG: Final = "OTEL_TRACES_SAMPLER_ARG"
RATIO_SAMPLERS: Final = ("traceidratio", "parentbased_traceidratio")
"""The samplers whose argument is a ratio."""


def _limit(default: str) -> Rule:
    # The SDK takes an empty one for no limit.
    return _whole(0, default, TRACES, empty_is_right=True)


def _or(variable: str, rule: Rule) -> Rule:
    """Let another variable be read where the one of *rule* cannot be."""
    return rule._replace(default=f"{variable}, or {rule.default},")


def _otlp(name: str, rule: Rule, prefix: str = "OTEL_EXPORTER_OTLP_") -> dict[str, Rule]:
    """The common variable, and one for each signal."""
    common = f"{prefix}{name}"
    return {
        common: rule._replace(signals=_BOTH),
        f"{prefix}TRACES_{name}": _or(common, rule)._replace(signals=(TRACES,)),
        f"{prefix}METRICS_{name}": _or(common, rule)._replace(signals=(METRICS,)),
    }


def _credentials(protocol: str) -> dict[str, Rule]:
    rule = _registered("none", "opentelemetry_otlp_credential_provider")
    return _otlp("CREDENTIAL_PROVIDER", rule, f"OTEL_PYTHON_EXPORTER_OTLP_{protocol}_")


_SWITCH: Final = _one_of("false", "true", "false")
_PATTERN: Final = Rule(
    _patterns, "none", lambda: "regular expressions with commas between them, 'healthz,/internal/'"
)

RULES: Final[Mapping[str, Rule]] = {
    # The API, and what is read whatever we export.
    "OTEL_PROPAGATORS": _several("tracecontext,baggage", _propagators),
    "OTEL_PYTHON_CONTEXT": _registered("contextvars_context", "opentelemetry_context"),
    "OTEL_SDK_DISABLED": _SWITCH,
    # HTTP instrumentation.
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": _PATTERN,
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE": _PATTERN,
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS": _PATTERN,
    "OTEL_PYTHON_AIOHTTP_CLIENT_EXCLUDED_URLS": _or("OTEL_PYTHON_EXCLUDED_URLS", _PATTERN),
    "OTEL_PYTHON_EXCLUDED_URLS": _PATTERN,
    "OTEL_PYTHON_HTTPX_EXCLUDED_URLS": _or("OTEL_PYTHON_EXCLUDED_URLS", _PATTERN),
    "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS": _or("OTEL_PYTHON_EXCLUDED_URLS", _PATTERN),
    # Both providers.
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": _several("otel", _detectors, *_BOTH),
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": _SWITCH._replace(signals=_BOTH),
    "OTEL_RESOURCE_ATTRIBUTES": Rule(
        _pairs, "none", lambda: "'key=value' with commas between them, in UTF-8", _BOTH
    ),
    "OTEL_SERVICE_NAME": Rule(
        _encodable, "unknown_service", lambda: "the service's name, 'checkout', in UTF-8", _BOTH
    ),
    "OTEL_PYTHON_LOGGER_CONFIGURATOR": _registered(
        "none", "_opentelemetry_logger_configurator", *_BOTH
    ),
    # The tracer provider.
    "OTEL_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit("no limit"),
    "OTEL_BSP_EXPORT_TIMEOUT": _whole(0, "30000", TRACES),
    _BATCH: _whole(1, str(_BATCH_DEFAULT), TRACES),
    _QUEUE: _whole(1, str(_QUEUE_DEFAULT), TRACES),
    "OTEL_BSP_SCHEDULE_DELAY": _whole(1, "5000", TRACES),
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_PYTHON_TRACER_PROVIDER": _registered(
        "a provider of ours", "opentelemetry_tracer_provider", TRACES
    ),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit("no limit"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": _limit("128"),
    "OTEL_SPAN_LINK_COUNT_LIMIT": _limit("128"),
    _SAMPLER_ARG: Rule(_ratio, "1.0", lambda: "a number from 0 to 1", (TRACES,)),
    # The meter provider.
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": _one_of(
        "explicit_bucket_histogram",
        "explicit_bucket_histogram", "base2_exponential_bucket_histogram",
        signals=(METRICS,),
    ),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": _one_of(
        "cumulative", "cumulative", "delta", "lowmemory", signals=(METRICS,)
    ),
    "OTEL_EXPORTER_PROMETHEUS_PORT": _whole(0, "9464", METRICS),
    "OTEL_METRICS_EXEMPLAR_FILTER": _one_of(
        "trace_based", "trace_based", "always_on", "always_off", signals=(METRICS,)
    ),
    "OTEL_METRIC_EXPORT_INTERVAL": _duration(
        _MAX_WAIT_S * 1000, "milliseconds", "60000", METRICS, may_be_endless=True
    ),
    "OTEL_METRIC_EXPORT_TIMEOUT": _duration(_MAX_WAIT_S * 1000, "milliseconds", "30000", METRICS),
    "OTEL_PYTHON_METER_PROVIDER": _registered(
        "a provider of ours", "opentelemetry_meter_provider", METRICS
    ),
    # OTLP.
    **_otlp("COMPRESSION", _one_of("none", "none", "gzip", "deflate")),
    # But for its files, which `tls_files` looks at as they are used: they may come late.
    **_otlp("HEADERS", Rule(_headers, "none", lambda: "name=value,name=value", is_secret=True)),
    **_otlp("INSECURE", _SWITCH),
    **_otlp("PROTOCOL", _one_of("http/protobuf", "http/protobuf", "grpc")),
    **_otlp("TIMEOUT", _duration(_MAX_TIMEOUT_S, "seconds", "10")),
    **_credentials("GRPC"),
    **_credentials("HTTP"),
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": _several(
        "those of the specification", _grpc_codes, *_BOTH, upper=True
    ),
}  # fmt: skip
"""The variables that OpenTelemetry reads when we import it or have it make something, and for whose
wrong values it raises, ends a thread, loses what it exports, or says something of its own."""
