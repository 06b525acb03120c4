from __future__ import annotations

import gc
import importlib
import logging
import os
import socket
import sys
import textwrap
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from grpc import StatusCode
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.util import _importlib_metadata

import assisters_otel
import warm
from assisters_otel.providers import entry_points as registration
from assisters_otel.providers import owned_providers, workers
from assisters_otel.providers.build import build_providers
from assisters_otel.providers.delivery import REPEAT_WARNING_S, DeliveryState, Receiver
from assisters_otel.providers.exporter_logs import LOGGERS, failure_in_log_record
from assisters_otel.providers.failures import ExportFailure, failure_of
from otlp import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


SLACK_S = 3.0  # on a busy machine everything takes longer


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def build() -> Iterator[Callable[..., owned_providers.OwnedProviders]]:
    built = []

    def build(**arguments) -> owned_providers.OwnedProviders:
        defaults = {
            "traces": True,
            "metrics": True,
            "service_name": None,
            "endpoint": None,
            "headers": None,
            "protocol": None,
        }
        built.append(build_providers(**{**defaults, **arguments}))
        return built[-1]

    yield build
    for exports in built:
        exports.shutdown(0.1)


@pytest.fixture
def dead() -> str:
    """A base URL where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Register something of this module as a package's entry point would."""
    folder = tmp_path / "acme-1.0.dist-info"
    folder.mkdir()
    folder.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    fresh = _importlib_metadata._original_entry_points_cached.cache_clear

    def registered(group: str, name: str, value: str) -> None:
        text = f"[{group}]\n{name} = {value if ':' in value else f'{__name__}:{value}'}\n"
        folder.joinpath("entry_points.txt").write_text(text)
        importlib.invalidate_caches()
        fresh()

    yield registered
    monkeypatch.undo()
    fresh()


def record(exports: owned_providers.OwnedProviders, spans: int = 1, count: int = 1) -> None:
    if exports.tracer_provider:
        tracer = exports.tracer_provider.get_tracer("app")
        for number in range(spans):
            tracer.start_span(f"span {number}").end()
    if exports.meter_provider:
        exports.meter_provider.get_meter("app").create_counter("count").add(count)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "assisters_otel"]


class Run(NamedTuple):
    out: str
    err: str
    elapsed_s: float


def run(script: str, *arguments: str, **variables: str) -> Run:
    """Run *script* in a process of its own; ``build(endpoint)`` and ``shut(exports)`` are there."""
    head = """
        import atexit, os, sys, time, logging, multiprocessing
        from functools import partial
        from assisters_otel.providers import build as building
        logging.basicConfig(level=logging.INFO)
        def build(endpoint, **more):
            asked = dict(traces=True, metrics=True, service_name="s", headers=None, protocol=None)
            return building.build_providers(**{**asked, **more}, endpoint=endpoint)
        def shut(exports):
            before = time.monotonic()
            done = exports.shutdown()
            print(done, time.monotonic() - before, flush=True)
    """
    started_s = time.monotonic()
    whole = textwrap.dedent(head) + textwrap.dedent(script)
    done = warm.run("-c", whole, *arguments, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr
    return Run(done.stdout, done.stderr, time.monotonic() - started_s)


# -- what arrives -------------------------------------------------------------------------------


def test_spans_and_metrics_arrive_below_the_base_url(build):
    with Collector() as collector:
        exports = build(endpoint=collector.endpoint + "/", service_name="checkout")
        record(exports, spans=2, count=3)

        assert exports.flush(60) is True

        assert [span.name for span in collector.spans()] == ["span 0", "span 1"]
        (point,) = collector.points("count")
        assert (point.value, point.scope) == (3, "app")
        assert point.resource["service.name"] == "checkout"
        assert point.resource["service.instance.id"]
        assert point.resource == collector.spans()[0].resource
        assert exports.destinations == (
            f"traces: otlp_proto_http {collector.endpoint}/v1/traces",
            f"metrics: otlp_proto_http {collector.endpoint}/v1/metrics",
        )
        assert exports.shutdown() is True


def test_variables_alone_are_enough(build, monkeypatch):
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{collector.endpoint}/m?key=k")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "checkout")
        before = dict(os.environ)
        exports = build()
        record(exports)
        exports.flush(60)

        assert {request.path for request in collector.requests} == {"/v1/traces", "/m?key=k"}
        assert {request.headers["x-tenant"] for request in collector.requests} == {"a"}
        (span,) = collector.spans()
        assert span.resource["deployment.environment.name"] == "test"
        assert span.resource["service.name"] == "checkout"
        assert exports.destinations[1].endswith("/m")
        assert dict(os.environ) == before


def test_arguments_win_over_variables(build, monkeypatch, dead):
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", dead)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{dead}/v1/traces")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "other")
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
        exports = build(
            endpoint=collector.endpoint,
            protocol="http/protobuf",
            headers={"X-Tenant": "b"},
            service_name="checkout",
        )
        record(exports)

        assert exports.flush(60) is True

        assert {request.headers["x-tenant"] for request in collector.requests} == {"b"}
        assert collector.spans()[0].resource["service.name"] == "checkout"


@pytest.mark.parametrize(
    ("listed", "arguments", "texts"),
    [
        ("none", {"endpoint": "http://c:1"}, ("traces: none",)),
        ("console", {}, ("traces: console",)),
        ("console", {"protocol": "grpc"}, ("traces: otlp_proto_grpc http://localhost:4317",)),
        (
            "console, otlp,otlp_proto_http,",
            {"endpoint": "https://u:p@c/base/"},
            ("traces: console", "traces: otlp_proto_http https://c/base/v1/traces"),
        ),
        (
            "otlp_proto_grpc",
            {"protocol": "http/protobuf"},
            ("traces: otlp_proto_http http://localhost:4318/v1/traces",),
        ),
        ("otlp_proto_grpc", {}, ("traces: otlp_proto_grpc http://localhost:4317",)),
    ],
)
def test_the_variable_says_which_exporters_and_an_argument_means_otlp(
    build, monkeypatch, listed, arguments, texts
):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", listed)

    exports = build(metrics=False, **arguments)

    assert exports.destinations == texts
    assert exports.meter_provider is None


def test_none_still_gives_spans_ids(build, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")

    exports = build()
    span = exports.tracer_provider.get_tracer("app").start_span("span")

    assert span.get_span_context().is_valid
    assert exports.destinations == ("traces: none", "metrics: none")
    assert exports.flush(60) is True


def test_a_grpc_endpoint_from_a_variable_needs_no_scheme(build, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "127.0.0.1:4317")

    assert build(metrics=False).destinations == ("traces: otlp_proto_grpc 127.0.0.1:4317",)


def test_grpc_takes_the_base_url_and_headers_in_capitals(build):
    import grpc

    class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802 - the service's name
            spans = request.resource_spans[0].scope_spans[0].spans
            arrived.append((spans[0].name, dict(context.invocation_metadata())["x-tenant"]))
            return trace_service_pb2.ExportTraceServiceResponse()

    arrived: list[tuple[str, str]] = []
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Receiver(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    exports = build(
        metrics=False,
        endpoint=f"http://127.0.0.1:{port}",
        protocol="grpc",
        headers={"X-Tenant": "b"},
    )
    record(exports)

    assert exports.flush(60) is True
    server.stop(None).wait()

    assert arrived == [("span 0", "b")]


# -- samplers, ids, readers ---------------------------------------------------------------------


def acme_sampler(argument):
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    if argument == "raise":
        raise KeyError(argument)
    return {"off": ALWAYS_OFF, "on": ALWAYS_ON}.get(argument)


@pytest.mark.parametrize(("argument", "sampled"), [("off", False), ("on", True)])
def test_a_sampler_that_is_only_registered_is_found(
    build, monkeypatch, registered, argument, sampled
):
    registered("opentelemetry_traces_sampler", "acme", "acme_sampler")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "acme")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")

    tracer = build(metrics=False).tracer_provider.get_tracer("app")

    assert tracer.start_span("span").get_span_context().trace_flags.sampled is sampled


@pytest.mark.parametrize(
    ("name", "argument", "description"),
    [
        ("TraceIdRatio", "0.25", "TraceIdRatioBased{0.25}"),
        ("parentbased_traceidratio", "", "root:TraceIdRatioBased{1.0}"),
        (" traceidratio", None, "TraceIdRatioBased{1.0}"),
        ("always_off", "", "AlwaysOffSampler"),
        ("", "", "root:AlwaysOnSampler"),
    ],
)
def test_the_sdks_samplers_go_by_their_names(
    build, monkeypatch, caplog, name, argument, description
):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", name)
    if argument is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")

    sampler = build(metrics=False).tracer_provider.sampler

    assert description in sampler.get_description()
    assert caplog.records == []  # the SDK, left to read them, warns of what is empty or not set


class Ids(IdGenerator):
    def generate_span_id(self):
        return 7

    def generate_trace_id(self):
        return 8


def test_an_id_generator_that_is_registered_is_used(build, monkeypatch, registered):
    registered("opentelemetry_id_generator", "acme", "Ids")
    monkeypatch.setenv("OTEL_PYTHON_ID_GENERATOR", "acme")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")

    tracer = build(metrics=False).tracer_provider.get_tracer("app")

    assert tracer.start_span("span").get_span_context().trace_id == 8


class Pulled(InMemoryMetricReader):
    def __init__(self):
        super().__init__()
        pulled.append(self)


pulled: list[Pulled] = []


def test_a_reader_is_registered_as_a_reader(build, monkeypatch, registered):
    registered("opentelemetry_metrics_exporter", "acme", "Pulled")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "acme")

    exports = build(traces=False)
    record(exports)

    data = pulled.pop().get_metrics_data()
    assert data.resource_metrics[0].scope_metrics[0].metrics[0].name == "count"
    assert exports.destinations == ("metrics: acme",)


# -- what cannot be used ------------------------------------------------------------------------


class Broken(SpanExporter):
    def __init__(self):
        raise KeyError("no settings")


class Refusing(SpanExporter):
    def export(self, spans):  # noqa: ARG002 - the exporter's signature
        return SpanExportResult.FAILURE


class Raising(SpanExporter):
    def export(self, spans):  # noqa: ARG002 - the exporter's signature
        raise ConnectionResetError(104, "Connection reset", "?key=secret")


CREDENTIALS = (
    "opentelemetry_otlp_credential_provider",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
)
ACME = ("opentelemetry_traces_exporter", "acme")


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        ({}, {"protocol": "http/json"}, r"protocol: unknown .* Write 'http/protobuf' or 'grpc'"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "tcp"}, {}, r"OTEL_EXPORTER_OTLP_PROTOCOL: unknown"),
        ({}, {"endpoint": "localhost:4318"}, r"endpoint is no URL .* 'http://localhost:4318'"),
        ({}, {"endpoint": "http://u:secret@:1"}, r"endpoint is no URL of HTTP: '…@:1'"),
        ({}, {"endpoint": "http://u:12/secret@c:1"}, r"endpoint is no URL of HTTP: '…@c:1'"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://u:1#secret@c/v1/traces"},
            {},
            r"no URL of HTTP: '…@c/v1/traces'",
        ),
        ({}, {"endpoint": "c:4317", "protocol": "grpc"}, r"Write 'http://c:4317'"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:1/secret@c", "OTEL_TRACES_EXPORTER": "none"},
            {"protocol": "grpc"},
            r"'…@c' has a user or a password",
        ),
        ({}, {"endpoint": "http://[::1"}, r"endpoint is no URL"),
        ({}, {"endpoint": "ftp://c", "protocol": "grpc"}, r"endpoint is no URL"),
        ({}, {"endpoint": "http://c/v1/metrics/"}, r"base URL: .* Leave /v1/metrics out"),
        ({}, {"endpoint": "http://c/?key=secret"}, r"Leave out what follows its path"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4318"}, {}, r"OTEL_EXPORTER_OTLP_ENDPOINT is no URL"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "c"}, {}, r"_TRACES_ENDPOINT is no URL"),
        ({}, {"headers": {"a b": "c"}}, r"no name of a header: 'a b'"),
        ({}, {"headers": {"authorization": "Bearer secret\n"}}, r"'authorization' cannot be sent"),
        ({"OTEL_TRACES_EXPORTER": "otpl"}, {}, r"nothing is called 'otpl'. Write one of .*console"),
        ({"OTEL_TRACES_EXPORTER": "none,otlp"}, {}, r"'none' is alone"),
        ({"OTEL_METRICS_EXPORTER": "otpl"}, {}, r"OTEL_METRICS_EXPORTER: nothing is called"),
        ({"OTEL_TRACES_SAMPLER": "always"}, {}, r"nothing is called 'always'. Write one of .*_on"),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
            {},
            r"refuses OTEL_TRACES_SAMPLER_ARG='2' .* from 0 to 1",
        ),
        ({"OTEL_PYTHON_ID_GENERATOR": "xray"}, {}, r"nothing is called 'xray'"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, {}, r"max_queue_size .* Look at OTEL_BSP_"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "0"}, {}, r"interval .* OTEL_METRIC_EXPORT_INTERVAL"),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "odd"}, {}, r"OTEL_METRICS_EXEMPLAR_FILTER"),
        ({"OTEL_SPAN_LINK_COUNT_LIMIT": "-1"}, {}, r"OTEL_SPAN_LINK_COUNT_LIMIT must be"),
    ],
)
def test_what_cannot_be_used_is_told_and_leaves_no_thread(
    build, monkeypatch, variables, arguments, message
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = set(threading.enumerate())

    with pytest.raises(ValueError, match=message) as raised:
        build(**arguments)

    assert "secret" not in str(raised.value)
    until_s = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < until_s:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before
    assert not any(
        type(f).__name__ == "ExporterLogFilter"
        for name in LOGGERS
        for f in logging.getLogger(name).filters
    )


@pytest.mark.parametrize(
    ("group", "variable", "value", "message"),
    [
        (ACME[0], "OTEL_TRACES_EXPORTER", "Ids", r"'acme' exports no traces"),
        (ACME[0], "OTEL_TRACES_EXPORTER", "Broken", r"cannot be made: KeyError: 'no settings'"),
        (ACME[0], "OTEL_TRACES_EXPORTER", "no.such:X", r"imported .* install what it needs$"),
        ("opentelemetry_id_generator", "OTEL_PYTHON_ID_GENERATOR", "Broken", r"makes no ids"),
        ("opentelemetry_traces_sampler", "OTEL_TRACES_SAMPLER", "acme_sampler", r"no sampler"),
        (CREDENTIALS[0], CREDENTIALS[1], "Broken", r"'acme' cannot be made \(KeyError\)"),
        (CREDENTIALS[0], CREDENTIALS[1], "Ids", r"'acme' gives no session"),
    ],
)
def test_what_is_registered_wrongly_is_told(
    build, monkeypatch, registered, *, group, variable, value, message
):
    registered(group, "acme", value)
    monkeypatch.setenv(variable, "acme")

    with pytest.raises(ValueError, match=message):
        build()


# By gRPC the signal's own variable counts only beside a certificate.
@pytest.mark.parametrize("way", ["HTTP_TRACES", "GRPC"])
def test_a_credential_provider_that_raises_costs_its_signal_alone(
    monkeypatch, caplog, registered, way
):
    registered(CREDENTIALS[0], "acme", "Broken")
    monkeypatch.setenv(f"OTEL_PYTHON_EXPORTER_OTLP_{way}_CREDENTIAL_PROVIDER", "acme")
    if way == "GRPC":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://127.0.0.1:9")

    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        with assisters_otel.init("x") as telemetry:
            destinations = telemetry.status().destinations

    assert [text.partition(":")[0] for text in destinations] == ["metrics"]
    ((_, text),) = [one for one in said(caplog) if "no spans are sent" in one[1]]
    assert "KeyError" in text


def test_a_sampler_that_raises_is_told(build, monkeypatch, registered):
    registered("opentelemetry_traces_sampler", "acme", "acme_sampler")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "acme")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "raise")

    with pytest.raises(ValueError, match="refuses OTEL_TRACES_SAMPLER_ARG='raise'"):
        build()


@pytest.mark.parametrize("signal", ["traces", "metrics"])
def test_where_no_thread_can_be_started_no_variable_is_blamed(build, monkeypatch, signal):
    """As in an isolated subinterpreter, whose threads are no daemons."""
    start = threading.Thread.start

    def start_others(thread: threading.Thread) -> None:
        if thread.daemon:
            raise RuntimeError("daemon threads are disabled in this (sub)interpreter")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_others)
    with pytest.raises(ValueError, match="daemon threads are disabled") as raised:
        build(traces=signal == "traces", metrics=signal == "metrics")

    assert "OTEL_" not in str(raised.value)


def test_grpc_without_its_extra_says_what_to_install(build, monkeypatch):
    everything = registration.entry_points
    monkeypatch.setitem(registration._HOMES, "otlp_proto_grpc", "not-installed-here")
    monkeypatch.setitem(registration._MODULES, "otlp_proto_grpc", "not_installed.here")
    hidden = lambda **by: [e for e in everything(**by) if "grpc" not in e.name]  # noqa: E731
    monkeypatch.setattr(registration, "entry_points", hidden)

    with pytest.raises(ValueError, match=r"pip install 'assisters-otel\[grpc\]'"):
        build(protocol="grpc")


# -- quiet --------------------------------------------------------------------------------------


def test_a_dead_endpoint_costs_one_warning(build, monkeypatch, caplog, dead):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")
    caplog.set_level(logging.DEBUG)
    exports = build(
        endpoint=dead.replace("//", "//user:secret@"), headers={"authorization": "secret"}
    )
    for _ in range(2):
        record(exports)
        assert exports.flush(60) is False

    assert said(caplog) == [
        (
            "WARNING",
            (
                f"telemetry does not get through to {dead} (ConnectionError: Connection refused): "
                "spans and metrics are dropped until it does; this is said once"
            ),
        )
    ]
    assert [r for r in caplog.records if r.name in LOGGERS] == []
    assert "secret" not in caplog.text + str(exports.destinations)


def test_recovery_is_said_once(build, monkeypatch, caplog, dead):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    caplog.set_level(logging.INFO)
    exports = build(endpoint=dead)
    record(exports)
    assert exports.flush(60) is False

    with Collector(port=int(dead.rpartition(":")[2])):
        for _ in range(2):
            record(exports)
            assert exports.flush(60) is True
        assert exports.shutdown() is True

    assert [level for level, _ in said(caplog)] == ["WARNING", "INFO"]
    assert said(caplog)[1][1] == f"telemetry gets through to {dead} again"


def test_a_collector_that_hangs_costs_one_warning(build, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")
    with Collector(hang=True) as collector:
        exports = build(endpoint=collector.endpoint)
        record(exports)
        assert exports.flush(60) is False

        ((level, text),) = said(caplog)
        assert level == "WARNING"
        assert "): spans and metrics are dropped" in text


def test_a_refusal_of_one_signal_says_which(build, caplog):
    with Collector(status={"/v1/metrics": 404}) as collector:
        exports = build(endpoint=collector.endpoint)
        for _ in range(2):
            record(exports)
            assert exports.flush(60) is False

    ((_, text),) = said(caplog)
    assert "(HTTP 404): metrics are dropped until it does" in text


def test_the_status_of_a_collector_that_is_overloaded_is_told(build, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")
    with Collector(status=503) as collector:
        exports = build(endpoint=collector.endpoint, metrics=False)
        record(exports)
        assert exports.flush(60) is False

    ((_, text),) = said(caplog)
    assert "(HTTP 503): spans are dropped" in text


@pytest.fixture(params=["nothing", "opentelemetry", "each logger"])
def silenced(request) -> Iterator[None]:
    """An app that wants to hear nothing of OpenTelemetry."""
    names = {"nothing": (), "each logger": LOGGERS}.get(request.param, (request.param,))
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield
    for name in names:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.usefixtures("silenced")
def test_a_full_queue_is_told_once(build, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    with Collector(hang=True) as collector:
        exports = build(endpoint=collector.endpoint, metrics=False)
        record(exports, spans=4)
        collector.wait_for(lambda: collector.requests)
        record(exports, spans=50)

        ((_, text),) = said(caplog)
        assert "(queue full): spans are dropped" in text
        assert [r for r in caplog.records if r.name in LOGGERS] == []


def test_a_queue_that_is_full_because_nobody_answers_is_no_warning_of_its_own(caplog):
    receiver = Receiver("http://c")
    spans, metrics = (DeliveryState(what, what, receiver) for what in ("spans", "metrics"))
    refused = (ConnectionRefusedError(111, "Connection refused"),)
    spans.start()
    spans.note_exporter_log(
        logging.LogRecord("name", logging.WARNING, "", 0, "Transient %s", refused, None)
    )
    spans.note_full_queue(logging.LogRecord("name", logging.WARNING, "", 0, "Queue full", (), None))
    spans.failed()
    metrics.failed(ExportFailure("ConnectionError", was_answered=False))

    ((_, text),) = said(caplog)
    assert "Connection refused): spans and metrics are dropped" in text


def test_a_signal_is_said_to_be_dropped_once(caplog):
    receiver = Receiver("http://c")
    receiver.telemetry += ["spans", "metrics"]
    receiver.failed("spans", ExportFailure("queue full", was_answered=True), 0.0)
    receiver.failed("metrics", ExportFailure("no answer in time", was_answered=False), 1.0)

    assert [text.partition("): ")[2].partition(" are")[0] for _, text in said(caplog)] == [
        "spans",
        "metrics",
    ]


def test_an_exporter_that_raises_leaves_no_traceback(build, monkeypatch, caplog, registered):
    registered(*ACME, "Raising")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "acme")
    exports = build(metrics=False)
    for _ in range(2):
        record(exports)
        assert exports.flush(60) is False

    assert [r.name for r in caplog.records] == ["assisters_otel"]
    assert "secret" not in caplog.text
    assert "the exporter acme (ConnectionResetError: Connection reset): spans" in caplog.text


def test_an_exporter_that_fails_without_a_word_is_not_said_to_hang(
    build, monkeypatch, caplog, registered
):
    registered(*ACME, "Refusing")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "acme")
    exports = build(metrics=False)
    record(exports)

    assert exports.flush(60) is False

    assert "the exporter acme (no reason is given): spans are" in caplog.text


class Chatty(SpanExporter):
    def export(self, spans):  # noqa: ARG002 - the exporter's signature
        logging.getLogger("urllib3.connectionpool").debug("%s:%s", "c", 443)
        return SpanExportResult.FAILURE


def test_what_is_logged_at_debug_is_no_reason(build, monkeypatch, caplog, registered):
    registered(*ACME, "Chatty")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "acme")
    caplog.set_level(logging.DEBUG)
    exports = build(metrics=False)
    record(exports)

    assert exports.flush(60) is False

    assert [text for _, text in said(caplog) if "(no reason is given)" in text]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.CRITICAL])
def test_the_levels_of_the_loggers_are_the_app_s_outside_of_an_export(build, dead, level, caplog):
    for name in LOGGERS:
        caplog.set_level(level, name)
    build(endpoint=dead)

    for name in LOGGERS:
        assert logging.getLogger(name).isEnabledFor(logging.ERROR) is (level == logging.DEBUG)
        assert logging.getLogger(name).isEnabledFor(logging.DEBUG) is (level == logging.DEBUG)


def test_the_applications_own_exporter_logs_as_ever(build, caplog, dead):
    build(endpoint=dead)
    own = TracerProvider(shutdown_on_exit=False)
    own.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{dead}/v1/traces", timeout=0.2)))
    own.get_tracer("app").start_span("span").end()

    own.force_flush()
    own.shutdown()

    assert {r.name for r in caplog.records} & set(LOGGERS)


def test_the_filters_are_taken_out_again(build):
    def filters() -> list[list[object]]:
        loggers = [logging.getLogger(name) for name in LOGGERS]
        mine = ("makeRecord", "isEnabledFor")
        return [[*logger.filters, *(name in vars(logger) for name in mine)] for logger in loggers]

    before = filters()
    threads = set(threading.enumerate())
    with Collector() as collector:
        exports = build(endpoint=collector.endpoint)
        assert filters() != before
        record(exports)
        assert exports.shutdown() is True

        assert filters() == before
        until_s = time.monotonic() + 5
        while any("otel" in t.name.lower() for t in set(threading.enumerate()) - threads):
            assert time.monotonic() < until_s
            time.sleep(0.01)


def test_a_place_that_fails_again_soon_is_not_spoken_of(caplog):
    caplog.set_level(logging.INFO)
    receiver = Receiver("http://c")
    receiver.telemetry += ["spans", "metrics"]
    gone = ExportFailure("ConnectionError", was_answered=False)

    for now_s in (0.0, REPEAT_WARNING_S - 1, REPEAT_WARNING_S - 0.5, REPEAT_WARNING_S + 1):
        receiver.failed("spans", gone, now_s)
        receiver.failed("metrics", gone, now_s)
        receiver.succeeded("spans")
        receiver.succeeded("metrics")

    assert [level for level, _ in said(caplog)] == ["WARNING", "INFO", "WARNING", "INFO"]


def test_a_refusal_outlives_the_success_of_another_signal(caplog):
    caplog.set_level(logging.INFO)
    receiver = Receiver("http://c")
    receiver.failed("metrics", ExportFailure("HTTP 404", was_answered=True), 0.0)

    receiver.succeeded("spans")
    assert [level for level, _ in said(caplog)] == ["WARNING"]
    receiver.succeeded("metrics")
    assert [level for level, _ in said(caplog)] == ["WARNING", "INFO"]


@pytest.mark.parametrize(
    ("level", "text", "arguments", "hint"),
    [
        (
            logging.WARNING,
            "Transient error %s",
            (TimeoutError(),),
            ExportFailure("TimeoutError", False),
        ),
        (logging.ERROR, "Failed to encode: %s", (KeyError("k"),), ExportFailure("KeyError", True)),
        (
            logging.WARNING,
            "size %d exceeds %d",
            (70_000, 640),
            ExportFailure("size 70000 exceeds 640", True),
        ),
        (logging.ERROR, "Failed to export %s batch due to timeout", ("spans",), None),
        (logging.WARNING, "Shutdown in progress, aborting retry.", (), None),
        (logging.WARNING, "Transient error %s", ("Service Unavailable",), None),
        (
            logging.WARNING,
            "size %d exceeds %d",
            (70_000, 512),
            ExportFailure("size 70000 exceeds 512", True),
        ),
        (logging.ERROR, "code: %s", (StatusCode.UNAVAILABLE,), ExportFailure("UNAVAILABLE", False)),
        (logging.ERROR, "code: %s, %s", (403, "Forbidden"), ExportFailure("HTTP 403", True)),
    ],
)
def test_the_reason_is_read_from_what_an_exporter_logs(level, text, arguments, hint):
    assert (
        failure_in_log_record(logging.LogRecord("name", level, "", 0, text, arguments, None))
        == hint
    )


def test_a_ring_of_causes_is_described():
    first, second = KeyError(), ValueError()
    first.__context__, second.__context__ = second, first

    assert failure_of(first) == ExportFailure("KeyError", was_answered=True)


# -- exit ---------------------------------------------------------------------------------------

LEAVE = """
    exports = build(sys.argv[1])
    tracer = exports.tracer_provider.get_tracer("app")
    for _ in range(int(sys.argv[2])):
        tracer.start_span("span").end()
    exports.meter_provider.get_meter("app").create_counter("count").add(5)
    atexit.register(shut, exports)
"""


def test_nothing_is_lost_at_exit():
    with Collector() as collector:
        done = run(LEAVE, collector.endpoint, "1500")

        assert len(collector.spans()) == 1500
        assert collector.points("count")[0].value == 5
        assert done.out.startswith("True")
        assert done.err == ""


def test_a_collector_that_hangs_holds_the_exit_up_for_five_seconds_at_most():
    with Collector(hang=True) as collector:
        done = run(LEAVE, collector.endpoint, "1500")

    complete, elapsed = done.out.split()
    assert complete == "False"
    assert 4.5 < float(elapsed) < 5 + SLACK_S
    assert done.elapsed_s < 30
    assert done.err.count("\n") == 1
    assert "no answer in time" in done.err


def test_an_absent_collector_holds_the_exit_up_for_about_a_second(dead):
    done = run(LEAVE, dead, "1500")

    complete, elapsed = done.out.split()
    assert complete == "False"
    assert float(elapsed) < 4
    assert done.err.count("\n") == 1
    assert "ConnectionError: Connection refused" in done.err


def test_a_flush_comes_back_in_time_and_the_end_too(build):
    with Collector(hang=True) as collector:
        exports = build(endpoint=collector.endpoint)
        record(exports)
        started_s = time.monotonic()

        assert exports.flush(0.3) is False
        assert exports.flush(0.3) is False
        assert exports.shutdown(0.5) is False
        assert exports.shutdown() is False
        assert exports.flush(60) is False

        assert time.monotonic() - started_s < 5 + SLACK_S


def test_the_filters_stay_until_the_last_thread_is_done(build, caplog):
    with Collector(hang=True) as collector:
        exports = build(endpoint=collector.endpoint)
        record(exports)
        assert exports.shutdown(0.2) is False
        assert any(
            type(f).__name__ == "ExporterLogFilter"
            for n in LOGGERS
            for f in logging.getLogger(n).filters
        )

    until_s = time.monotonic() + 60
    while any(
        type(f).__name__ == "ExporterLogFilter"
        for n in LOGGERS
        for f in logging.getLogger(n).filters
    ):
        assert time.monotonic() < until_s
        time.sleep(0.02)
    assert [r.name for r in caplog.records] == ["assisters_otel"]


def test_calls_are_made_in_time_and_one_that_raises_is_told(caplog):
    def raising() -> None:
        raise KeyError

    hands = workers.DaemonWorkers(2)
    assert workers.run_all(hands.submit([raising]), 60) is False
    assert workers.run_all(hands.submit([lambda: True, lambda: None]), 60) is True
    assert workers.run_all(hands.submit([lambda: time.sleep(1)]), 0.05) is False
    hands.stop()
    assert said(caplog) == [("WARNING", "telemetry could not be exported (KeyError)")]


def test_memory_is_bounded_while_nobody_answers(build, dead):
    exports = build(endpoint=dead, metrics=False)

    record(exports, spans=20_000)
    gc.collect()

    assert sum(isinstance(thing, ReadableSpan) for thing in gc.get_objects()) < 4_000


# -- fork ---------------------------------------------------------------------------------------

FORK = textwrap.dedent("""
    exports = build(sys.argv[1], **eval(sys.argv[3]))

    def count(provider, number):
        provider.get_meter("assisters_otel").create_counter("ours").add(number)

    def child():
        inherited = exports.meter_provider
        if sys.argv[2] == "renew":
            renewed = exports.renew_after_fork()
            assert renewed is exports.meter_provider is exports.renew_after_fork()
            assert renewed is not inherited
            count(renewed, 2)
        inherited.get_meter("app").create_counter("theirs").add(1)
        if exports.tracer_provider:
            exports.tracer_provider.get_tracer("app").start_span("child").end()
        assert exports.flush(60), "child"
        shut(exports)

    def parent():
        assert exports.renew_after_fork() is exports.meter_provider
        count(exports.meter_provider, 3)
        if exports.tracer_provider:
            exports.tracer_provider.get_tracer("app").start_span("parent").end()
        assert exports.flush(60), "parent"

    def end():
        count(exports.meter_provider, 4)
        shut(exports)
""")
OS_FORK = textwrap.dedent("""
    parent()
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    end()
""")
MULTIPROCESSING = textwrap.dedent("""
    parent()
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    end()
""")


@pytest.mark.parametrize("fork", [OS_FORK, MULTIPROCESSING], ids=["os.fork", "multiprocessing"])
def test_a_forked_process_exports_its_own_counts_and_not_its_parents(fork):
    with Collector() as collector:
        run(FORK + fork, collector.endpoint, "renew", "{}")

        instance = {span.name: span.resource["service.instance.id"] for span in collector.spans()}
        counts = {p.resource["service.instance.id"]: p.value for p in collector.points("ours")}
        assert counts == {instance["parent"]: 7, instance["child"]: 2}
        assert len(instance) == len(collector.spans()) == 2
        (theirs,) = collector.points("theirs")
        assert theirs.resource["service.instance.id"] == instance["child"]


def test_before_it_is_renewed_a_forked_process_exports_none_of_our_counts():
    with Collector() as collector:
        run(FORK + OS_FORK, collector.endpoint, "wait", "{}")

        instance = {span.name: span.resource["service.instance.id"] for span in collector.spans()}
        (ours,) = collector.points("ours")
        assert (ours.resource["service.instance.id"], ours.value) == (instance["parent"], 7)
        assert collector.points("theirs")


def test_a_forked_process_with_nothing_of_its_own_sends_no_metrics():
    script = """
        parent()
        pid = os.fork()
        if pid == 0:
            assert exports.flush(60)
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        end()
    """
    with Collector() as collector:
        run(FORK + textwrap.dedent(script), collector.endpoint, "", "{}")

        assert len(collector.points("ours")) == 1


def test_a_forked_process_has_connections_of_its_own():
    with Collector() as collector:
        run(FORK + OS_FORK, collector.endpoint, "renew", "{}")

        spans = [request for request in collector.requests if request.path == "/v1/traces"]
        assert len({request.client for request in spans}) == len(spans) == 2


def test_an_instance_that_a_variable_names_is_not_a_forked_processs():
    with Collector() as collector:
        run(
            FORK + OS_FORK,
            collector.endpoint,
            "renew",
            "{'traces': False}",
            OTEL_RESOURCE_ATTRIBUTES="service.instance.id=one",
        )

        counts = {p.resource["service.instance.id"]: p.value for p in collector.points("ours")}
        assert counts.pop("one") == 7
        assert list(counts.values()) == [2]


def test_a_forked_process_is_not_blamed_for_its_parents_failure(dead):
    script = """
        exports = build(sys.argv[1])
        exports.tracer_provider.get_tracer("app").start_span("parent").end()
        assert not exports.flush(60)
        pid = os.fork()
        if pid == 0:
            assert exports.flush(60)
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """
    run(script, dead, OTEL_EXPORTER_OTLP_TIMEOUT="0.3")


@pytest.mark.parametrize("status", [200, 503, None], ids=["taken", "refused", "nobody there"])
def test_an_export_imports_nothing(status, dead):
    """It has a thread of its own, and of a child that is forked meanwhile the lock of an import."""
    script = """
        exports = build(sys.argv[1])
        exports.tracer_provider.get_tracer("app").start_span("span").end()
        exports.meter_provider.get_meter("app").create_counter("count").add(1)
        before = set(sys.modules)
        exports.flush(60)
        shut(exports)
        print(sorted(set(sys.modules) - before))
    """
    with Collector() as collector:
        collector.status = status
        done = run(script, collector.endpoint if status else dead, OTEL_EXPORTER_OTLP_TIMEOUT="0.3")

        assert done.out.endswith("\n[]\n")
        assert bool(collector.requests) is bool(status)


def test_a_fork_after_the_end_starts_no_thread():
    script = """
        import threading
        exports = build(sys.argv[1])
        exports.shutdown()
        pid = os.fork()
        if pid == 0:
            assert "assisters-otel-export" not in [t.name for t in threading.enumerate()]
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        del exports
        import gc; gc.collect()
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """
    with Collector() as collector:
        run(script, collector.endpoint)


def test_an_exporter_that_is_pulled_serves_the_parent_alone(monkeypatch, registered, tmp_path):
    registered("opentelemetry_metrics_exporter", "acme", "test_export:Pulled")
    script = """
        import test_export
        exports = build(sys.argv[1], traces=False)
        pid = os.fork()
        if pid == 0:
            exports.renew_after_fork().get_meter("assisters_otel").create_counter("ours").add(2)
            assert len(test_export.pulled) == 1
            assert exports.shutdown()
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        exports.shutdown()
    """
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "acme,otlp")
    path = [str(tmp_path), str(Path(__file__).parent), *filter(None, sys.path)]
    with Collector() as collector:
        run(script, collector.endpoint, PYTHONPATH=os.pathsep.join(path))

        assert [point.value for point in collector.points("ours")] == [2]


def test_metrics_that_were_not_built_cannot_be_renewed(build, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")

    with pytest.raises(RuntimeError, match="metrics=True"):
        build(metrics=False).renew_after_fork()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_exporter_that_is_bundled_without_its_metadata_is_found(build, monkeypatch, protocol):
    for name in registration._HOMES:
        monkeypatch.setitem(registration._HOMES, name, "not-installed-here")

    provided = build(protocol=protocol)

    name = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}[protocol]
    assert [one.split()[1] for one in provided.destinations] == [name, name]
