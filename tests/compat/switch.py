"""The pytest plug-in that switches telemetry on under somebody else's tests.

`ASSISTERS_OTEL_FOREIGN` says what: ``bare`` (nothing), ``otel`` (OpenTelemetry's own
instrumentations), ``ours`` (the library, watching the hosts that the tests use) or ``unwatched``
(the library, watching none of them). How each test ended goes to a file, as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

MODE = os.environ["ASSISTERS_OTEL_FOREIGN"]
INSTRUMENTORS = {
    "httpx": ("HTTPXClientInstrumentor", "HTTPX2ClientInstrumentor"),
    "requests": ("RequestsInstrumentor",),
    "aiohttp_client": ("AioHttpClientInstrumentor",),
}
WORST = ("failed", "error", "xpassed", "xfailed", "skipped", "passed")

ended: dict[str, str] = {}


def switch_on() -> None:
    if MODE == "bare":
        return
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    reader = InMemoryMetricReader()
    options: dict[str, Any] = {
        "tracer_provider": tracers,
        "meter_provider": MeterProvider([reader], shutdown_on_exit=False),
    }
    if MODE == "otel":
        for name, classes in INSTRUMENTORS.items():
            if importlib.util.find_spec(name.removesuffix("_client")) is None:
                continue
            module = importlib.import_module(f"opentelemetry.instrumentation.{name}")
            for one in classes:
                getattr(module, one)().instrument(**options)
    else:
        import assisters_otel

        hosts = os.environ["ASSISTERS_OTEL_FOREIGN_HOSTS"].split() if MODE == "ours" else []
        assisters_otel.init(hosts=hosts, strict=True, **options)
    seen.append(spans)
    readers.append(reader)


seen: list[Any] = []
readers: list[Any] = []
switch_on()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome = str(report.outcome)
    if hasattr(report, "wasxfail"):
        outcome = "xpassed" if report.passed else "xfailed"
    elif report.failed and report.when != "call":
        outcome = "error"
    before = ended.get(report.nodeid, "passed")
    ended[report.nodeid] = min(before, outcome, key=WORST.index)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        ended[report.nodeid] = "error"


def attempts() -> int:
    """How many attempts we have measured."""
    data = readers[0].get_metrics_data() if readers else None
    return sum(
        point.count
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "assisters.client.request.duration"
        for point in metric.data.data_points
    )


def pytest_sessionfinish() -> None:
    told = {
        "outcomes": ended,
        "spans": len(seen[0].get_finished_spans()) if seen else 0,
        "attempts": attempts(),
    }
    Path(os.environ["ASSISTERS_OTEL_FOREIGN_OUTCOMES"]).write_text(json.dumps(told))
