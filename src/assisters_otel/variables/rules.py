"""The rule of each of OpenTelemetry's variables: its right values, its default, its signals.

A variable belongs here if a wrong value makes OpenTelemetry raise, end a thread, lose what it
exports or log a message of its own (tests/test_variables.py tries each of them).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from assisters_otel.variables.values import (
    Rule,
    detectors,
    duration,
    grpc_codes,
    one_of,
    propagators,
    read_encodable,
    read_headers,
    read_methods,
    read_pairs,
    read_patterns,
    read_ratio,
    registered,
    several,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

TRACES: Final = "traces"
METRICS: Final = "metrics"
_BOTH: Final = (TRACES, METRICS)

_MAX_WAIT_S: Final = threading.TIMEOUT_MAX
"""The longest wait of a thread. A longer one raises and ends the thread."""

_MAX_TIMEOUT_S: Final = (2**31 - 1) / 1000
"""The longest wait of a socket: poll takes milliseconds in a C int."""

QUEUE_SIZE: Final = "OTEL_BSP_MAX_QUEUE_SIZE"
BATCH_SIZE: Final = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
QUEUE_SIZE_DEFAULT: Final = 2048
BATCH_SIZE_DEFAULT: Final = 512
SAMPLER: Final = "OTEL_TRACES_SAMPLER"
SAMPLER_ARG: Final = "OTEL_TRACES_SAMPLER_ARG"
RATIO_SAMPLERS: Final = ("traceidratio", "parentbased_traceidratio")
"""The samplers whose argument is a ratio."""


def _limit(default: str) -> Rule:
    # The SDK reads an empty value as no limit.
    return whole_number(0, default, TRACES, empty_is_right=True)


def _or(variable: str, rule: Rule) -> Rule:
    """Return *rule* with another variable as its default, which is read if the first cannot be."""
    return rule._replace(default=f"{variable}, or {rule.default},")


def _otlp(name: str, rule: Rule, prefix: str = "OTEL_EXPORTER_OTLP_") -> dict[str, Rule]:
    """Return the rules of an OTLP variable: the common one, and one for each signal."""
    common = f"{prefix}{name}"
    return {
        common: rule._replace(signals=_BOTH),
        f"{prefix}TRACES_{name}": _or(common, rule)._replace(signals=(TRACES,)),
        f"{prefix}METRICS_{name}": _or(common, rule)._replace(signals=(METRICS,)),
    }


def _credentials(protocol: str) -> dict[str, Rule]:
    rule = registered("none", "opentelemetry_otlp_credential_provider")
    return _otlp("CREDENTIAL_PROVIDER", rule, f"OTEL_PYTHON_EXPORTER_OTLP_{protocol}_")


_SWITCH: Final = one_of("false", "true", "false")
_PATTERN: Final = Rule(
    read_patterns,
    "none",
    lambda: "regular expressions with commas between them, 'healthz,/internal/'",
)

RULES: Final[Mapping[str, Rule]] = {
    # The API, and variables that are read whatever is exported.
    "OTEL_PROPAGATORS": several("tracecontext,baggage", propagators),
    "OTEL_PYTHON_CONTEXT": registered("contextvars_context", "opentelemetry_context"),
    "OTEL_SDK_DISABLED": _SWITCH,
    # HTTP instrumentation.
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": _PATTERN,
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE": _PATTERN,
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS": _PATTERN,
    "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS": Rule(
        read_methods, "the conventions' list", lambda: "methods with commas, 'GET,POST,PURGE'"
    ),
    "OTEL_PYTHON_AIOHTTP_CLIENT_EXCLUDED_URLS": _or("OTEL_PYTHON_EXCLUDED_URLS", _PATTERN),
    "OTEL_PYTHON_EXCLUDED_URLS": _PATTERN,
    "OTEL_PYTHON_HTTPX_EXCLUDED_URLS": _or("OTEL_PYTHON_EXCLUDED_URLS", _PATTERN),
    "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS": _or("OTEL_PYTHON_EXCLUDED_URLS", _PATTERN),
    # Both providers.
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": several("otel", detectors, *_BOTH),
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": _SWITCH._replace(signals=_BOTH),
    "OTEL_RESOURCE_ATTRIBUTES": Rule(
        read_pairs, "none", lambda: "'name=value' with commas between them, in UTF-8", _BOTH
    ),
    "OTEL_SERVICE_NAME": Rule(
        read_encodable, "unknown_service", lambda: "the service's name, 'checkout', in UTF-8", _BOTH
    ),
    "OTEL_PYTHON_LOGGER_CONFIGURATOR": registered(
        "none", "_opentelemetry_logger_configurator", *_BOTH
    ),
    # The tracer provider.
    "OTEL_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit("no limit"),
    "OTEL_BSP_EXPORT_TIMEOUT": whole_number(0, "30000", TRACES),
    BATCH_SIZE: whole_number(1, str(BATCH_SIZE_DEFAULT), TRACES),
    QUEUE_SIZE: whole_number(1, str(QUEUE_SIZE_DEFAULT), TRACES),
    "OTEL_BSP_SCHEDULE_DELAY": whole_number(1, "5000", TRACES),
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_PYTHON_TRACER_PROVIDER": registered(
        "a provider of ours", "opentelemetry_tracer_provider", TRACES
    ),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": _limit("128"),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": _limit("no limit"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": _limit("128"),
    "OTEL_SPAN_LINK_COUNT_LIMIT": _limit("128"),
    SAMPLER_ARG: Rule(read_ratio, "1.0", lambda: "a number from 0 to 1", (TRACES,)),
    # The meter provider.
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": one_of(
        "explicit_bucket_histogram",
        "explicit_bucket_histogram", "base2_exponential_bucket_histogram",
        signals=(METRICS,),
    ),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": one_of(
        "cumulative", "cumulative", "delta", "lowmemory", signals=(METRICS,)
    ),
    "OTEL_EXPORTER_PROMETHEUS_PORT": whole_number(0, "9464", METRICS),
    "OTEL_METRICS_EXEMPLAR_FILTER": one_of(
        "trace_based", "trace_based", "always_on", "always_off", signals=(METRICS,)
    ),
    "OTEL_METRIC_EXPORT_INTERVAL": duration(
        _MAX_WAIT_S * 1000, "milliseconds", "60000", METRICS, may_be_endless=True
    ),
    "OTEL_METRIC_EXPORT_TIMEOUT": duration(_MAX_WAIT_S * 1000, "milliseconds", "30000", METRICS),
    "OTEL_PYTHON_METER_PROVIDER": registered(
        "a provider of ours", "opentelemetry_meter_provider", METRICS
    ),
    # OTLP.
    **_otlp("COMPRESSION", one_of("none", "none", "gzip", "deflate")),
    # Not the files for TLS: `tls_files` reads them when they are used, as they may be created late.
    **_otlp("HEADERS", Rule(read_headers, "none", lambda: "name=value,name=value", is_secret=True)),
    **_otlp("INSECURE", _SWITCH),
    **_otlp("PROTOCOL", one_of("http/protobuf", "http/protobuf", "grpc")),
    **_otlp("TIMEOUT", duration(_MAX_TIMEOUT_S, "seconds", "10")),
    **_credentials("GRPC"),
    **_credentials("HTTP"),
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": several(
        "those of the specification", grpc_codes, *_BOTH, upper=True
    ),
}  # fmt: skip
"""The rules by variable. OpenTelemetry reads each when it is imported or creates an object."""
