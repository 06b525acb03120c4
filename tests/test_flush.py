"""A flush, and the end: within their time, whoever hangs, raises, or is gone already."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import assisters_otel
from assisters_otel.providers.build import build_providers
from otlp import Collector
from scripts import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.providers import owned_providers

SLACK_S = 3.0  # on a busy machine everything takes longer
LONG_S = 30.0  # what hangs would hang for so long


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def hanging() -> Iterator[object]:
    """Give a function that does not come back before the test is over."""
    over = threading.Event()
    yield lambda *_, **__: over.wait(LONG_S)
    over.set()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def providers():
    """Give providers of the app's, with spans in a queue that nobody empties but a flush."""
    spans = InMemorySpanExporter()
    tracers, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    tracers.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=100_000))
    yield tracers, meters, spans
    tracers.shutdown()
    meters.shutdown()


@pytest.mark.parametrize("hangs", ["the app's provider", "the collector", "both"])
def test_a_flush_has_one_limit_whoever_hangs(collector, providers, hanging, hangs):
    tracers, _, _ = providers
    collector.hang = hangs != "the app's provider"
    if hangs != "the collector":
        tracers.force_flush = hanging
    with assisters_otel.init(endpoint=collector.endpoint, tracer_provider=tracers) as telemetry:
        telemetry._exports.meter_provider.get_meter("x").create_counter("x").add(1)

        began_s = time.monotonic()
        done = telemetry.flush(2)
        took_s = time.monotonic() - began_s

        assert done is False
        assert 1.9 < took_s < 3.9, "one after the other they take four"
        collector.hang = False
        collector._closing.set()  # whoever hangs goes on


def test_ours_is_flushed_while_the_apps_provider_hangs(collector, providers, hanging):
    tracers, _, _ = providers
    tracers.force_flush = hanging
    with assisters_otel.init(endpoint=collector.endpoint, tracer_provider=tracers) as telemetry:
        telemetry._exports.meter_provider.get_meter("x").create_counter("x").add(1)

        assert telemetry.flush(1) is False
        assert collector.points("x")


def test_a_flush_that_was_given_up_is_not_in_the_way_of_the_next(providers):
    tracers, meters, spans = providers
    original, late = tracers.force_flush, threading.Event()
    tracers.force_flush = lambda *_: late.wait(LONG_S) and original()
    with assisters_otel.init(tracer_provider=tracers, meter_provider=meters) as telemetry:
        threads = threading.active_count()
        for _ in range(5):
            assert telemetry.flush(0.01) is False
        assert threading.active_count() == threads
        late.set()
        tracers.get_tracer("x").start_span("x").end()
        assert telemetry.flush(LONG_S) is True
        assert len(spans.get_finished_spans()) == 1


@pytest.mark.parametrize(
    "limit", [math.inf, 1e12, 1e300, 10**400, threading.TIMEOUT_MAX, threading.TIMEOUT_MAX * 2, 9]
)
@pytest.mark.parametrize("whose", ["the app's", "ours", "both"])
def test_a_flush_without_a_limit_flushes(caplog, collector, providers, whose, limit):
    tracers, meters, spans = providers
    given = {"tracer_provider": tracers} if whose != "ours" else {}
    given |= {"meter_provider": meters} if whose == "the app's" else {}
    with assisters_otel.init(endpoint=collector.endpoint, **given) as telemetry:
        ours = telemetry._exports
        tracer = (given.get("tracer_provider") or ours.tracer_provider).get_tracer("x")
        tracer.start_span("x").end()

        assert telemetry.flush(limit) is True

        assert len(spans.get_finished_spans() if given else collector.spans()) == 1
    assert not caplog.records


def test_what_the_app_has_ended_is_not_flushed(caplog, collector):
    """The SDK's own flush would export once more, and warn that the exporter has ended."""
    url = f"{collector.endpoint}/v1/metrics"
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(url))])
    tracers = TracerProvider()
    with assisters_otel.init(tracer_provider=tracers, meter_provider=meters) as telemetry:
        tracers.shutdown()
        meters.shutdown()
        sent = len(collector.requests)

        telemetry.flush()

        assert len(collector.requests) == sent
    assert not caplog.records


@pytest.mark.parametrize("wrong", [math.nan, -1, -math.inf, -0.001, "5", None, [5], 1j])
def test_what_is_no_time_is_told_with_what_to_write(providers, wrong):
    tracers, meters, _ = providers
    with (
        assisters_otel.init(tracer_provider=tracers, meter_provider=meters) as telemetry,
        pytest.raises(ValueError, match=r"Write flush\(5\)"),
    ):
        telemetry.flush(wrong)


def test_where_no_thread_can_be_started_a_flush_flushes_all_the_same(
    monkeypatch, caplog, providers
):
    tracers, meters, spans = providers
    telemetry = assisters_otel.init(tracer_provider=tracers, meter_provider=meters, strict=True)
    tracers.get_tracer("x").start_span("x").end()

    def refuse(_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert telemetry.flush(10) is True
        telemetry.shutdown()
        assert telemetry.flush(10) is False  # its threads are gone, and nothing raises

    assert len(spans.get_finished_spans()) == 1
    assert not caplog.records


AT_EXIT = """
import atexit, sys, threading
import assisters_otel
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

def refuse(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")

def at_exit():
    if sys.version_info < (3, 12):
        threading.Thread.start = refuse  # what later ones do by themselves
    trace.get_tracer("x").start_span("at exit").end()
    print(telemetry.flush(10))

if OWN:
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    trace.get_tracer_provider().add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=100_000)
    )
if EARLY:
    atexit.register(at_exit)  # runs after our own
telemetry = assisters_otel.init("x", strict=True)
if not EARLY:
    atexit.register(at_exit)
"""


@pytest.mark.parametrize("own", [True, False], ids=["the app's provider", "ours"])
@pytest.mark.parametrize("early", [True, False], ids=["after our end", "before it"])
def test_a_flush_at_exit_sends_the_rest(collector, own, early):
    done = run(
        f"OWN, EARLY = {own}, {early}\n{AT_EXIT}",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_METRICS_EXPORTER="none",
    )

    assert (done.code, done.err) == (0, "")
    if early:  # after our own end: the threads and our provider are gone, and nothing raises
        assert done.out in {"True\n", "False\n"}
    else:
        assert done.out == "True\n"
        assert [span.name for span in collector.spans()] == ["at exit"]


def raising(*_: object, **__: object) -> object:
    raise ZeroDivisionError("the app's own logging is broken")


class RaisingHandler(logging.Handler):
    emit = raising


@pytest.fixture(params=["filter", "root filter", "handler", "formatter", "factory", "stderr"])
def broken_logging(request, monkeypatch) -> Iterator[str]:
    """Break the app's logging in one way."""
    logger, root = logging.getLogger("assisters_otel"), logging.getLogger()
    factory, level = logging.getLogRecordFactory(), root.level
    handler: logging.Handler = RaisingHandler()
    if request.param == "stderr":
        closed = open(os.devnull, "w")  # noqa: PTH123, SIM115
        closed.close()
        monkeypatch.setattr(sys, "stderr", closed)
        handler = logging.StreamHandler()
    elif request.param == "formatter":
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(nothing)s"))
        handler.handleError = raising
    root.setLevel(logging.DEBUG)
    if request.param == "filter":
        logger.addFilter(raising)
    elif request.param == "factory":
        logging.setLogRecordFactory(raising)
    elif request.param == "root filter":
        handler = logging.StreamHandler()
        handler.addFilter(raising)
        root.addHandler(handler)
    else:
        root.addHandler(handler)
    yield request.param
    logging.setLogRecordFactory(factory)
    logger.removeFilter(raising)
    root.removeHandler(handler)
    root.setLevel(level)


def build(collector: Collector) -> owned_providers.OwnedProviders:
    return build_providers(
        traces=True,
        metrics=True,
        service_name=None,
        endpoint=collector.endpoint,
        headers=None,
        protocol=None,
    )


@pytest.mark.parametrize("status", [200, 302, 503])
def test_broken_logging_costs_no_telemetry(collector, broken_logging, monkeypatch, status):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    exports = build(collector)
    tracer = exports.tracer_provider.get_tracer("x")
    counter = exports.meter_provider.get_meter("x").create_counter("x")
    collector.status = status
    tracer.start_span("first").end()
    counter.add(1)
    taken = exports.flush(10)
    collector.status = 200
    tracer.start_span("last").end()
    counter.add(1)

    ended = exports.shutdown(10)

    assert taken is (status == 200), broken_logging
    assert ended is True
    assert "last" in {span.name for span in collector.spans()}
    assert collector.points("x")[-1].value == 2


def test_a_full_queue_does_not_bring_broken_logging_to_the_app(
    collector, broken_logging, monkeypatch
):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "2")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    collector.hang = True
    exports = build(collector)
    tracer = exports.tracer_provider.get_tracer("x")
    for _ in range(20):
        tracer.start_span("x").end()

    assert exports._receivers[0]._warned_of == {"spans"}, broken_logging
    collector._closing.set()  # whoever hangs goes on
    exports.shutdown(0.1)


@pytest.mark.parametrize("status", [200, 302])
def test_an_exit_with_broken_logging_loses_nothing(collector, status):
    collector.status = {"/v1/metrics": status}
    done = run(
        """
        import logging, sys
        import assisters_otel
        from opentelemetry import trace

        def raising(*_, **__):
            raise ZeroDivisionError

        logging.setLogRecordFactory(raising)
        assisters_otel.init("x")
        trace.get_tracer("x").start_span("x").end()
        sys.stderr.close()
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert (done.code, done.out, done.err) == (0, "", "")
    assert [span.name for span in collector.spans()] == ["x"]
