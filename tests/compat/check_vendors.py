"""What is recorded with a vendor's providers: python check_vendors.py logfire|… before|after.

It runs inside an environment that `vendors.py` has made, against servers on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import trace

import assisters_otel
from assisters_otel.testing import FakeApi
from otlp import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CODE = "error.code"
COUNT = "http.request.resend_count"
OUTCOME = "assisters.call.outcome"
RETRIES = "assisters.retry.count"
DURATION = "assisters.client.request.duration"
CALL_ATTEMPTS = "assisters.client.call.attempts"
NOWHERE = "http://127.0.0.1:9"


class Told(NamedTuple):
    """What a vendor's providers have recorded.

    Attributes:
        spans: Gives the attributes of each span.
        points: Gives the points of a metric, with `count` and `attributes`; None where the
            vendor has no meter provider.
    """

    spans: Callable[[], list[dict[str, Any]]]
    points: Callable[[str], list[Any]] | None = None


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def in_memory() -> tuple[Any, Told, Any]:
    """A span processor and a metric reader of the SDK's, and what they hold."""
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()

    def points(name: str) -> list[Any]:
        data = reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def spans() -> list[dict[str, Any]]:
        return [dict(span.attributes or {}) for span in exporter.get_finished_spans()]

    return SimpleSpanProcessor(exporter), Told(spans, points), reader


def of_logfire(_: Collector) -> Told:
    import logfire

    processor, told, reader = in_memory()
    logfire.configure(
        send_to_logfire=False,
        console=False,
        additional_span_processors=[processor],
        metrics=logfire.MetricsOptions(additional_readers=[reader]),
    )
    return told


def of_ddtrace(_: Collector) -> Told:
    from ddtrace.trace import TraceFilter, tracer

    found: list[Any] = []

    class Keep(TraceFilter):  # type: ignore[misc] # it has no types here
        def process_trace(self, spans: list[Any]) -> None:
            found.extend(spans)

    tracer.configure(trace_processors=[Keep()])
    if "ddtrace.auto" not in sys.modules:
        from ddtrace.opentelemetry import TracerProvider

        trace.set_tracer_provider(TracerProvider())
    return Told(lambda: [{**span.get_tags(), **span.get_metrics()} for span in found])


def of_ddtrace_auto(collector: Collector) -> Told:
    import ddtrace.auto  # noqa: F401 - which patches the clients

    return of_ddtrace(collector)


def of_sentry(collector: Collector) -> Told:
    import sentry_sdk
    from sentry_sdk.integrations.otlp import OTLPIntegration

    traces = OTLPIntegration(collector_url=f"{collector.endpoint}/v1/traces")
    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", integrations=[traces])
    return Told(lambda: [span.attributes for span in collector.spans()])


def of_azure(_: Collector) -> Told:
    from azure.monitor.opentelemetry import configure_azure_monitor

    processor, told, reader = in_memory()
    configure_azure_monitor(
        connection_string=(
            f"InstrumentationKey=00000000-0000-0000-0000-000000000000;IngestionEndpoint={NOWHERE}"
        ),
        disable_offline_storage=True,
        enable_live_metrics=False,
        enable_performance_counters=False,
        sampling_ratio=1.0,  # by default a few traces each second
        span_processors=[processor],
        metric_readers=[reader],
    )
    return told


VENDORS: dict[str, Callable[[Collector], Told]] = {
    "logfire": of_logfire,
    "ddtrace": of_ddtrace,
    "ddtrace-auto": of_ddtrace_auto,
    "sentry": of_sentry,
    "azure": of_azure,
}


def send(url: str) -> Iterator[Callable[[], object]]:
    """A call of `openai`, then a request by each client: each other than the one before."""
    import aiohttp
    import httpx
    import openai
    import requests

    client = openai.OpenAI(base_url=url, api_key="ask_k")
    yield lambda: client.chat.completions.create(model="first", messages=[])
    yield lambda: client.chat.completions.create(model="second", messages=[])
    yield lambda: httpx.post(f"{url}/chat/completions", json={"model": "httpx"})
    yield lambda: requests.post(f"{url}/chat/completions", json={"model": "requests"}, timeout=10)

    async def by_aiohttp() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/chat/completions", json={"model": "aiohttp"}) as response,
        ):
            await response.read()

    yield lambda: asyncio.run(by_aiohttp())


def check(vendor: Callable[[Collector], Told], *, is_before: bool) -> None:
    lines = Lines()
    logging.getLogger("assisters_otel").addHandler(lines)
    logging.getLogger("assisters_otel").setLevel(logging.INFO)
    with Collector() as collector, Collector() as theirs, FakeApi() as api:
        told = None if is_before else vendor(theirs)
        on = assisters_otel.init(
            "shop", hosts=[api.url], endpoint=collector.endpoint, protocol="http/protobuf",
            strict=True,
        )  # fmt: skip
        if told is None:
            told = vendor(theirs)
        begun = list(lines.said)
        api.answers("rate_limit_exceeded", "ok", retry_after=0)
        api.answers("invalid_model", times=4)
        for one in send(api.url):
            with contextlib.suppress(Exception):
                one()
            assert not trace.get_current_span().is_recording()
        on.flush(5)
        assert on.status().last_failure is None, on.status()
        assert on.status().attempts == 6, on.status()
        spans, points = told.spans(), told.points or collector.points
        if is_before:  # the application's providers have come too late
            spans = [span.attributes for span in collector.spans()]
            points = collector.points
        _look_at_spans(spans)
        _look_at_points(points(DURATION), points(CALL_ATTEMPTS))
        failures = [line for line in lines.said if " answered " in line]
        assert [line.partition(" (")[0] for line in failures] == [
            "Assisters API answered 400 invalid_model on POST /v1/chat/completions"
        ] * 4, failures
        has_told = any("Set it before init" in line for line in begun)
        assert has_told == (is_before or told.points is None), begun
        on.shutdown()


def _look_at_spans(spans: list[dict[str, Any]]) -> None:
    attempts = [one for one in spans if "assisters.request.id" in one and OUTCOME not in one]
    told = sorted((str(one.get(CODE)), int(one.get(COUNT, 0))) for one in attempts)
    refused = ("invalid_model", 0)
    assert told == [("None", 1), *[refused] * 4, ("rate_limit_exceeded", 0)], told
    calls = [(one[OUTCOME], one[RETRIES], one.get(CODE)) for one in spans if OUTCOME in one]
    assert sorted(calls) == [("failed", 0, "invalid_model"), ("recovered", 1, None)], calls


def _look_at_points(durations: list[Any], calls: list[Any]) -> None:
    counts = {point.attributes.get(CODE): point.count for point in durations}
    assert counts == {"rate_limit_exceeded": 1, None: 1, "invalid_model": 4}, counts
    sums = {point.attributes[OUTCOME]: point.sum for point in calls}
    assert sums == {"recovered": 2, "failed": 1}, sums


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)  # a vendor's exporter reaches nobody
    check(VENDORS[sys.argv[1]], is_before=sys.argv[2] == "before")
