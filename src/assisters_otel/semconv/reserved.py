"""The names that a user may not give to attributes of their own, because they are used already.

A name is compared as Prometheus spells it: every character but letters, digits and ``_`` is one
``_`` there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

_OTHERS: Final = re.compile(r"[^A-Za-z0-9]+")


def as_label(name: str) -> str:
    """Return an attribute's name as Prometheus spells it."""
    return _OTHERS.sub("_", name)


_OURS: Final = (
    *(row.name for row in names.ATTEMPT_ATTRIBUTES),
    *(row.name for row in names.CALL_ATTRIBUTES),
    *(row.name for row in names.STREAM_ATTRIBUTES),
    *(label for metric in metrics.METRICS for label in metric.attributes),
    *(names.ATTEMPTS, names.FAILURES, names.TRACE_ID, names.SPAN_ID),
)
_PROMETHEUS: Final = (
    *("le", "quantile", "job", "instance"),
    *("otel_scope_name", "otel_scope_version", "otel_scope_schema_url"),
)
"""Source: Prometheus, "Data model"; OpenTelemetry, "Prometheus and OpenMetrics Compatibility"."""

_RESOURCE: Final = ("service.name", "service.namespace", "service.instance.id", "service.version")
"""The attributes of a resource that backends add to every metric."""

USED_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys(_PROMETHEUS, "Prometheus"),
    **dict.fromkeys(map(as_label, _RESOURCE), "the semantic conventions"),
    **dict.fromkeys(map(as_label, _OURS), "this library"),
}
"""The user of each name that is used, by the name as a label."""

NAMESPACES: Final = frozenset(
    """
    android app artifact aspnetcore assisters aws az azure browser cassandra cicd client cloud
    cloudevents cloudfoundry code container cpu cpython db deployment destination device disk dns
    dotnet elasticsearch enduser error event exception faas feature_flag file gcp gen_ai geo go
    graphql hardware heroku host http hw ios jsonrpc jvm k8s kestrel linux log mainframe mcp message
    messaging net network nfs nodejs oci onc_rpc openai openshift opentelemetry opentracing oracle
    oracle_cloud os otel peer pool pprof process profile rpc security_rule server service session
    signalr source state system telemetry test thread tls url user user_agent v8js vcs webengine zos
    """.split()  # noqa: SIM905 - a list of words
)
"""The first parts of dotted names that the semantic conventions own, and the library's own.

The conventions' naming rules reserve an existing namespace. Source: OpenTelemetry, "Naming";
the list is the attribute registry's of 1.41 (test_no_namespace_of_the_conventions_is_missing)."""
