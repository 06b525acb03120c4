"""`init`, its handle, and what an app notices of them: mostly in a process of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

import assisters_otel
from assisters_otel import AssistersInstrumentor
from otlp import Collector
from scripts import passed, run

CALL = """
import httpx

def call(times=1):
    for _ in range(times):
        httpx.get(URL + "/models", trust_env=False)
"""


SLACK_S = 10  # a busy machine ends a process slowly


def script(api, body):
    return f"URL = {api.url!r}\n{CALL}\n" + body


@pytest.fixture
def collector():
    with Collector() as collector:
        yield collector


def errors(collector):
    return collector.points("assisters.client.errors")


# -- once a process ---------------------------------------------------------------------------


def test_a_second_call_returns_the_first_handle(telemetry, api, memory, caplog):
    again = assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    )

    assert again is telemetry
    assert not caplog.records


def test_a_second_call_with_other_arguments_warns(telemetry, caplog):
    assert assisters_otel.init("another") is telemetry

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "other arguments" in record.message


def test_twenty_threads_get_one_handle(memory):
    handles, barrier = [], threading.Barrier(20)

    def start():
        barrier.wait()
        handles.append(
            assisters_otel.init(
                tracer_provider=memory.tracer_provider, meter_provider=memory.meter_provider
            )
        )

    threads = [threading.Thread(target=start) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handles[0].shutdown()

    assert len(set(map(id, handles))) == 1


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        ({"service_name": ""}, "'checkout'"),
        ({"service_name": 7}, "'checkout'"),
        ({"endpoint": "localhost:4318"}, "'http://localhost:4318'"),
        ({"endpoint": "http://[::1"}, "'http://localhost:4318'"),
        ({"endpoint": "http://localhost:99999"}, "'http://localhost:4318'"),
        ({"endpoint": "http://localhost:4318/v1/traces"}, "Leave /v1/traces out"),
        ({"endpoint": "http://localhost:4318?x=1"}, "Leave out"),
        ({"headers": {"bad name": "x"}}, "'authorization'"),
        ({"headers": {"authorization": "x\n"}}, "Leave out"),
        ({"hosts": 5}, "hosts=['gateway.example']"),
        ({"hosts": {"a": 1}}, "hosts=['gateway.example']"),
        ({"hosts": ["*.example.com"]}, "host[:port][/path-prefix]"),
        ({"hosts": ["ftp://example.com"]}, "host[:port][/path-prefix]"),
        ({"tracer_provider": "x"}, "get_tracer"),
        ({"meter_provider": "x"}, "get_meter"),
        ({"endpoint": ""}, "'http://localhost:4318'"),
        ({"protocol": "http/json"}, "'http/protobuf' or 'grpc'"),
        ({"headers": "authorization=x"}, "{'x-scope-orgid': 'shop'}"),
        ({"headers": {"authorization": 1}}, "{'x-scope-orgid': 'shop'}"),
        ({"hosts": "gateway.example"}, "hosts=['gateway.example']"),
        ({"hosts": [7]}, "'gateway.example'"),
        ({"hosts": ["two words"]}, "host[:port][/path-prefix]"),
        ({"hosts": ["host:port"]}, "host[:port][/path-prefix]"),
        ({"hosts": ["http://"]}, "host[:port][/path-prefix]"),
        ({"hosts": ["host/?query"]}, "host[:port][/path-prefix]"),
        ({"capture_message": "yes"}, "capture_message=True"),
        ({"strict": "yes"}, "strict=True"),
    ],
)
def test_a_wrong_argument_says_what_to_write_instead(arguments, instead):
    with pytest.raises(ValueError, match=r"Write|Leave") as raised:
        assisters_otel.init(**arguments)

    assert instead in str(raised.value)
    assert not AssistersInstrumentor().is_instrumented_by_opentelemetry


def test_a_password_in_a_wrong_host_is_not_in_the_error():
    with pytest.raises(ValueError, match="not a host") as raised:
        assisters_otel.init(hosts=["http://me:hunter2@gateway.example/?x"])

    assert "hunter2" not in str(raised.value)


def test_a_header_s_value_is_in_no_repr(memory):
    with assisters_otel.init(
        headers={"authorization": "Bearer ask_live_0123456789"},
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
    ) as telemetry:
        seen = repr(telemetry) + repr(vars(telemetry)) + repr(telemetry.status())

    assert "ask_live" not in seen


def test_grpc_without_its_extra_says_what_to_install():
    done = run(
        """
        import sys
        sys.modules["opentelemetry.exporter.otlp.proto.grpc"] = None
        import assisters_otel
        assisters_otel.init(protocol="grpc")
        """
    )

    assert done.code == 1
    assert "ValueError" in done.err
    assert "pip install 'assisters-otel[grpc]'" in done.err


def test_a_wrong_variable_is_one_warning_and_the_app_goes_on(api):
    done = passed(
        script(
            api,
            """
import assisters_otel
with assisters_otel.init(hosts=[URL]) as telemetry:
    call()
    print(telemetry.status().attempts)
""",
        ),
        ASSISTERS_OTEL_HOSTS="two words",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
    )

    assert done.out == "1\n"
    assert done.err.count("\n") == 1
    assert "ASSISTERS_OTEL_HOSTS" in done.err
    assert "host[:port][/path-prefix]" in done.err


@pytest.mark.parametrize(
    "variable", ["OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER", "OTEL_TRACES_SAMPLER"]
)
def test_a_wrong_variable_of_opentelemetry_s_does_not_keep_the_app_from_starting(api, variable):
    done = run(
        script(
            api,
            """
import assisters_otel
with assisters_otel.init("checkout", hosts=[URL], protocol="http/protobuf"):
    call()
""",
        ),
        **{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", variable: "bogus"},
    )

    assert done.code == 0, done.err


def test_one_wrong_host_does_not_drop_the_others(memory, monkeypatch, caplog):
    monkeypatch.setenv("ASSISTERS_BASE_URL", "https://gateway.example/v1")
    monkeypatch.setenv("ASSISTERS_OTEL_HOSTS", "two words,other.example")

    with assisters_otel.init(
        tracer_provider=memory.tracer_provider, meter_provider=memory.meter_provider
    ) as telemetry:
        assert telemetry.status().hosts[2:] == ("gateway.example/v1", "other.example")

    assert caplog.text.count("two words") == 1


def test_a_provider_that_fails_leaves_an_inert_handle_and_nothing_behind(memory, caplog):
    class Failing:
        def get_meter(self, *_args, **_kwargs):
            raise RuntimeError("no meter")

    before = set(threading.enumerate())
    with assisters_otel.init(
        tracer_provider=memory.tracer_provider, meter_provider=Failing()
    ) as telemetry:
        assert not telemetry.status().active
    assert "no meter" in caplog.text
    assert set(threading.enumerate()) <= before
    assert not AssistersInstrumentor().is_instrumented_by_opentelemetry


def test_after_somebody_uninstrumented_init_begins_anew(api, memory):
    import httpx

    options = {
        "hosts": [api.url],
        "tracer_provider": memory.tracer_provider,
        "meter_provider": memory.meter_provider,
    }
    first = assisters_otel.init(**options)
    AssistersInstrumentor().uninstrument()
    assert not first.status().active
    with assisters_otel.init(**options) as second:
        assert second is not first
        httpx.get(api.url + "/models", trust_env=False)

    assert memory.attempt().name == "GET /v1/models"


def test_an_unknown_keyword_of_the_instrumentor_says_what_to_write():
    with pytest.raises(
        ValueError, match=r"unknown: host\. Write one of baggage, capture_message, hosts"
    ):
        AssistersInstrumentor().instrument(host=["gateway.example"])

    assert not AssistersInstrumentor().is_instrumented_by_opentelemetry


def test_a_wrong_variable_is_raised_if_strict(monkeypatch):
    monkeypatch.setenv("ASSISTERS_OTEL_CAPTURE_MESSAGE", "perhaps")

    with pytest.raises(ValueError, match="Write true or false"):
        assisters_otel.init(strict=True)


def test_an_exporter_nobody_has_is_one_warning_and_costs_its_own_signal_alone(api, collector):
    done = passed(
        script(
            api,
            """
import assisters_otel
with assisters_otel.init(hosts=[URL]) as telemetry:
    call()
    print(telemetry.status().attempts, len(telemetry.status().destinations))
""",
        ),
        OTEL_TRACES_EXPORTER="carrier-pigeon",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert done.out == "1 1\n"
    assert done.err.count("\n") == 1
    assert "no spans are sent: " in done.err
    assert "carrier-pigeon" in done.err
    assert collector.points("assisters.client.request.duration")[0].count == 1
    assert collector.spans() == []


def test_two_exporters_nobody_has_are_one_warning_and_the_app_goes_on(api):
    done = passed(
        script(
            api,
            """
import assisters_otel
with assisters_otel.init(hosts=[URL]) as telemetry:
    call()
    print(telemetry.status().attempts, telemetry.status().destinations)
""",
        ),
        OTEL_TRACES_EXPORTER="carrier-pigeon",
        OTEL_METRICS_EXPORTER="smoke-signals",
    )

    assert done.out == "1 ()\n"
    assert done.err.count("\n") == 1
    assert "carrier-pigeon" in done.err


def test_the_variables_of_ours_are_read(api, memory, monkeypatch):
    monkeypatch.setenv("ASSISTERS_BASE_URL", api.url)
    monkeypatch.setenv("ASSISTERS_OTEL_HOSTS", "gateway.example/x, OTHER.example:8080 ,")
    monkeypatch.setenv("ASSISTERS_OTEL_CAPTURE_MESSAGE", "true")
    api.answers("invalid_request", message="read me")
    import httpx

    with assisters_otel.init(
        tracer_provider=memory.tracer_provider, meter_provider=memory.meter_provider
    ) as telemetry:
        httpx.get(api.url + "/models", trust_env=False)
        assert telemetry.status().hosts == (
            "api.assisters.dev",
            "assisters.dev/api/v1",
            f"127.0.0.1:{api.port}/v1",
            "gateway.example/x",
            "other.example:8080",
        )

    assert memory.attempt().attributes["assisters.error.message"] == "read me"


def test_an_argument_wins_over_the_variable(api, memory, monkeypatch):
    monkeypatch.setenv("ASSISTERS_OTEL_CAPTURE_MESSAGE", "true")
    api.answers("invalid_request", message="read me")
    import httpx

    with assisters_otel.init(
        hosts=[api.url],
        capture_message=False,
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
    ):
        httpx.get(api.url + "/models", trust_env=False)

    assert "assisters.error.message" not in memory.attempt().attributes


# -- whose providers --------------------------------------------------------------------------


def test_without_providers_both_are_built_and_arrive(api, collector):
    api.answers("api_key_revoked", request_id="req_9")
    passed(
        script(
            api,
            """
import os
before = dict(os.environ)
import assisters_otel
assisters_otel.init("checkout", hosts=[URL])
assert "httpx" in __import__("sys").modules
call()
assert dict(os.environ) == before
""",
        ),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test,service.name=no",
    )

    (span,) = collector.spans()
    assert span.attributes["assisters.request.id"] == "req_9"
    assert span.status == ("ERROR", "api_key_revoked")
    assert span.resource["service.name"] == "checkout"
    assert span.resource["deployment.environment.name"] == "test"
    (point,) = errors(collector)
    assert point.value == 1
    assert point.attributes["error.code"] == "api_key_revoked"
    assert point.resource["service.name"] == "checkout"
    assert collector.points("assisters.client.request.duration")
    assert collector.points("assisters.client.ratelimit.requests.limit")


def test_an_endpoint_argument_is_a_base_url_and_wins(api, collector):
    passed(
        script(
            api,
            f"""
import assisters_otel
assisters_otel.init("checkout", hosts=[URL], endpoint={collector.endpoint!r},
                    headers={{"x-team": "a"}})
call()
""",
        ),
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
    )

    assert sorted(request.path for request in collector.requests) == ["/v1/metrics", "/v1/traces"]
    assert all(request.headers["x-team"] == "a" for request in collector.requests)


def test_the_app_s_own_providers_are_reused_and_never_shut_down(api):
    done = passed(
        script(
            api,
            """
import logging
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
logging.getLogger("httpx").setLevel(logging.WARNING)
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))
import assisters_otel
telemetry = assisters_otel.init("checkout", hosts=[URL])
call()
assert telemetry.flush(5)
print(telemetry.status().destinations)
telemetry.shutdown()
with trace.get_tracer("app").start_as_current_span("after"):
    pass
print([span.name for span in spans.get_finished_spans()])
print(reader.get_metrics_data() is not None)
""",
        )
    )

    assert done.out.splitlines() == [
        '("the application\'s TracerProvider", "the application\'s MeterProvider")',
        "['GET /v1/models', 'after']",
        "True",
    ]
    infos = [line for line in done.err.splitlines() if line.startswith("assisters_otel INFO")]
    assert len(infos) == 1
    assert "TracerProvider and MeterProvider" in infos[0]


def test_tracer_and_meter_are_decided_separately(api, collector):
    done = passed(
        script(
            api,
            """
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
import assisters_otel
with assisters_otel.init("checkout", hosts=[URL]) as telemetry:
    call()
    print(telemetry.status().destinations)
""",
        ),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert "the application's TracerProvider" in done.out
    assert f"metrics: otlp_proto_http {collector.endpoint}/v1/metrics" in done.out
    assert collector.spans() == []
    assert collector.points("assisters.client.request.duration")


def test_after_a_shutdown_a_new_init_arrives_too(api, collector):
    done = passed(
        script(
            api,
            """
import logging
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
logging.getLogger("httpx").setLevel(logging.WARNING)
import assisters_otel
for name in ("first", "second", "third"):
    with assisters_otel.init(name, hosts=[URL]) as telemetry:
        call()
        assert telemetry.status().active
    assert not telemetry.status().active
    call()
""",
        ),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    names = ["first", "second", "third"]
    assert [span.resource["service.name"] for span in collector.spans()] == names
    points = collector.points("assisters.client.request.duration")
    assert sorted(point.resource["service.name"] for point in points) == names
    assert [point.count for point in points] == [1, 1, 1]
    told = "the global tracer and meter provider, which was shut down, cannot be replaced"
    assert done.err.count(told) == 2


def test_switched_off_nothing_is_patched(api):
    done = passed(
        script(
            api,
            """
import assisters_otel
before = httpx.HTTPTransport.handle_request
with assisters_otel.init("checkout", hosts=[URL]) as telemetry:
    assert httpx.HTTPTransport.handle_request is before
    call()
    print(telemetry.status())
    print(telemetry.flush(1))
""",
        ),
        OTEL_SDK_DISABLED="true",
    )

    assert "active=False" in done.out
    assert done.out.endswith("True\n")
    assert done.err == ""


def test_no_client_is_imported_that_the_app_does_not_use():
    done = passed(
        """
        import sys
        import assisters_otel
        assisters_otel.init("checkout")
        print([name for name in ("httpx", "httpx2", "openai", "requests") if name in sys.modules])
        """,
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
    )

    assert done.out == "[]\n"


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("httpx", "httpx.adapter"),
        ("httpx2", "httpx.adapter"),
        ("requests", "requests.adapter"),
        ("aiohttp", "aiohttp.adapter"),
        ("openai", "openai"),
        ("assisters", "assisters"),
    ],
)
def test_a_client_s_adapter_is_imported_with_it(name, adapter):
    done = passed(
        f"""
        import sys
        import assisters_otel
        assisters_otel.init("checkout")
        adapters = {{"httpx.adapter", "requests.adapter", "aiohttp.adapter", "openai", "assisters"}}
        def imported():
            return {{one for one in adapters if f"assisters_otel.clients.{{one}}" in sys.modules}}
        assert imported() == set(), imported()
        import {name}
        print({adapter!r} in imported())
        """,
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
    )

    assert done.out == "True\n"


def test_what_an_app_does_without_is_not_imported_for_it(api):
    done = passed(
        f"""
        import sys
        import requests
        import assisters_otel
        with assisters_otel.init(hosts=[{api.url!r}]) as telemetry:
            assert requests.get("{api.url}/models", timeout=30).status_code == 200
            assert telemetry.status().attempts == 1
        without = {{"packaging", "httpx", "assisters_otel.runtimes.uvicorn"}}
        print(without & sys.modules.keys())
        """,
        is_first=True,
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
    )

    assert done.out == "set()\n"


@pytest.mark.parametrize("name", ["httpx", "httpx2", "openai"])
def test_a_client_imported_later_is_patched_then(name):
    done = passed(
        f"""
        import sys
        import assisters_otel
        telemetry = assisters_otel.init("checkout")
        print([(c.name, c.http_spans_by) for c in telemetry.status().clients if c.imported])
        import {name}
        print([(c.name, c.http_spans_by) for c in telemetry.status().clients if c.imported])
        """,
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
    )

    first, second = done.out.splitlines()
    assert first == "[]"
    assert ("httpx2" if name == "openai" else name, "assisters_otel") in eval(second)  # noqa: S307


def test_right_after_init_every_client_that_is_installed_is_listed_and_none_imported():
    done = passed(
        """
        import sys
        import assisters_otel
        clients = "httpx", "httpx2", "requests", "aiohttp", "openai", "assisters"
        telemetry = assisters_otel.init("checkout")
        before = telemetry.status().clients
        assert not [client for client in before if client.imported]
        assert tuple(client.name for client in before) == clients
        assert not [name for name in clients if name in sys.modules]
        for name in clients:
            __import__(name)
        after = telemetry.status().clients
        assert [client._replace(imported=True) for client in before] == list(after)
        telemetry.shutdown()
        assert telemetry.status().clients == ()
        """,
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
    )

    assert done.err == ""


def test_a_client_that_is_not_installed_is_not_listed():
    done = passed(
        """
        import sys
        import assisters_otel
        for name in ("openai", "opentelemetry.instrumentation.requests"):
            sys.modules[name] = None
        telemetry = assisters_otel.init("checkout")
        clients = {client.name: client for client in telemetry.status().clients}
        assert "openai" not in clients
        assert clients["requests"].http_spans_by == "assisters_otel"
        assert clients["httpx"].http_spans_by == "assisters_otel"
        """,
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
    )

    assert done.err == ""


def test_the_status_says_which_clients_are_never_seen(telemetry):
    not_seen = {"http.client", "urllib.request", "urllib3", "pycurl", "niquests"}
    assert {*telemetry.status().not_seen} == not_seen


def test_opentelemetry_s_own_instrumentation_may_be_imported_after_init(api):
    done = passed(
        script(
            api,
            """
""",
        ).replace("import httpx\n", "")
        + """
import sys
import assisters_otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
telemetry = assisters_otel.init("checkout", hosts=[URL], tracer_provider=provider)
assert "httpx" not in sys.modules
import opentelemetry.instrumentation.httpx
import httpx
call()
print([span.name for span in spans.get_finished_spans()], telemetry.status().last_failure)
""",
        OTEL_METRICS_EXPORTER="none",
    )

    assert done.out == "['GET /v1/models'] None\n"


# -- zero code --------------------------------------------------------------------------------

AUTO = (str(Path(os.sys.executable).with_name("opentelemetry-instrument")),)


# "logging" has the log exported, and puts nothing on stderr. To import the three that are called
# "openai" takes two seconds; test_an_app_without_a_line_of_telemetry_is_seen has them all.
@pytest.mark.parametrize("disabled", ["openai,logging", "openai,logging,httpx,httpx2"])
def test_opentelemetry_instrument_does_the_same_without_code(api, collector, disabled):
    api.answers("tokens_exhausted", request_id="req_7")

    done = passed(
        script(api, "call()"),
        by=AUTO,
        ASSISTERS_BASE_URL=api.url,
        OTEL_SERVICE_NAME="zero",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=disabled,
    )

    (span,) = [span for span in collector.spans() if span.kind == "CLIENT"]
    assert span.attributes["error.code"] == "tokens_exhausted"
    assert span.attributes["assisters.error.retryable"] is False
    assert span.attributes["assisters.request.id"] == "req_7"
    (point,) = errors(collector)
    assert point.resource["service.name"] == "zero"
    assert "tokens_exhausted" in done.err


def test_init_under_opentelemetry_instrument_records_in_its_providers(api, collector):
    passed(
        script(
            api,
            """
import assisters_otel
telemetry = assisters_otel.init("ignored", hosts=[URL])
call()
print(telemetry.status())
""",
        ),
        by=AUTO,
        OTEL_SERVICE_NAME="zero",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="openai",
    )

    (span,) = [span for span in collector.spans() if span.kind == "CLIENT"]
    assert span.name == "GET /v1/models"
    assert span.resource["service.name"] == "zero"
    (point,) = collector.points("assisters.client.request.duration")
    assert point.count == 1


def test_the_instrumentor_takes_what_any_instrumentor_takes(api, memory):
    import httpx

    instrumentor = AssistersInstrumentor()
    instrumentor.instrument(
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        hosts=[api.url],
    )
    try:
        httpx.get(api.url + "/models", trust_env=False)
    finally:
        instrumentor.uninstrument()
    httpx.get(api.url + "/models", trust_env=False)

    assert memory.attempt().name == "GET /v1/models"


def test_the_instrumentor_does_nothing_when_switched_off(monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    instrumentor = AssistersInstrumentor()

    instrumentor.instrument()
    try:
        assert instrumentor.active is None
    finally:
        instrumentor.uninstrument()


# -- exits and forks --------------------------------------------------------------------------


def test_a_dead_endpoint_costs_one_warning_and_no_traceback(api):
    done = passed(
        script(
            api,
            """
import assisters_otel
assisters_otel.init("checkout", hosts=[URL])
call(20)
import time
print(time.time())
""",
        ),
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_METRIC_EXPORT_INTERVAL="100",
    )

    ended = time.time()

    assert done.err.count("\n") == 1, done.err
    assert "http://127.0.0.1:9" in done.err
    assert ended - float(done.out) < 5 + SLACK_S


def test_a_collector_that_hangs_holds_the_exit_up_for_five_seconds_at_most(api):
    with Collector(hang=True) as collector:
        done = passed(
            script(
                api,
                """
import time
import assisters_otel
assisters_otel.init("checkout", hosts=[URL])
call(3)
print(time.time())
""",
            ),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )

    ended = time.time()

    assert done.err.count("\n") <= 1, done.err
    assert ended - float(done.out) < 5 + SLACK_S


FORK = """
import assisters_otel, os, sys
telemetry = assisters_otel.init("checkout", hosts=[URL])
call(3)
telemetry.flush(5)
"""


def counts(collector):
    """What each process counted last, by its instance."""
    return {
        point.resource["service.instance.id"]: point.count
        for point in collector.points("assisters.client.request.duration")
    }


@pytest.mark.parametrize(
    "leave",
    [
        """
pid = os.fork()
if pid == 0:
    call(2)
    sys.exit()
os.waitpid(pid, 0)
""",
        """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=call, args=(2,))
child.start()
child.join()
""",
        """
import warnings
warnings.simplefilter("ignore")
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
    pool.submit(call, 2).result()
""",
    ],
    ids=["os.fork", "multiprocessing", "ProcessPoolExecutor"],
)
def test_a_forked_child_exports_its_own_spans_and_counts(api, collector, leave):
    passed(script(api, FORK + leave + "\ncall()\n"), OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    assert sorted(counts(collector).values()) == [2, 4]
    by_instance = {}
    for span in collector.spans():
        instance = span.resource["service.instance.id"]
        by_instance[instance] = by_instance.get(instance, 0) + 1
    assert by_instance == counts(collector)


def test_a_child_s_status_counts_its_own_attempts(api, collector):
    done = passed(
        script(
            api,
            FORK
            + """
pid = os.fork()
if pid == 0:
    call()
    print(telemetry.status().attempts, flush=True)
    telemetry.shutdown()
    os._exit(0)
os.waitpid(pid, 0)
print(telemetry.status().attempts)
""",
        ),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert done.out.split() == ["1", "3"]


# -- what it tells ----------------------------------------------------------------------------


def test_status_tells_what_is_patched_watched_sent_and_seen(telemetry, api):
    import httpx

    api.answers("invalid_model")
    httpx.get(api.url + "/models", trust_env=False)
    httpx.get(api.url + "/models", trust_env=False)

    status = telemetry.status()
    assert status.active
    clients = {client.name: client for client in status.clients}
    assert clients["httpx"].version == httpx.__version__
    assert clients["httpx"].http_spans_by == "assisters_otel"
    assert f"127.0.0.1:{api.port}/v1" in status.hosts
    assert "api.assisters.dev" in status.hosts
    assert status.destinations == (
        "the application's TracerProvider",
        "the application's MeterProvider",
    )
    assert (status.attempts, status.errors, status.last_failure) == (2, 1, None)


def test_a_trouble_of_ours_does_not_reach_the_app(api, memory, monkeypatch, caplog):
    import httpx

    def broken(*_args, **_kwargs):
        raise RuntimeError("ours, with Bearer ask_live_0123456789")

    for step in (
        "sinks.metrics.AttemptMetrics.record_attempt",
        "sinks.attempt_span.write_outcome",
        "sinks.failure_log.FailureLog.record_failure",
        "api.error_body.parse_error_body",
    ):
        monkeypatch.setattr(f"assisters_otel.{step}", broken)
    api.answers("invalid_model", "internal_error")
    with (
        caplog.at_level(logging.DEBUG, "assisters_otel"),
        assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
        ) as telemetry,
    ):
        for _ in range(2):
            response = httpx.get(api.url + "/models", trust_env=False)
            assert response.json()["error"]
        status = telemetry.status()

    assert status.attempts == 2
    assert status.last_failure == "RuntimeError: ours, with REDACTED"
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert "Traceback" in caplog.text
    assert "ask_live" not in caplog.text


def test_a_trouble_of_ours_is_raised_if_strict(api, telemetry, monkeypatch):
    import httpx

    def broken(*_args, **_kwargs):
        raise RuntimeError("ours")

    monkeypatch.setattr("assisters_otel.sinks.metrics.AttemptMetrics.record_attempt", broken)
    with pytest.raises(RuntimeError, match="ours"):
        httpx.get(api.url + "/models", trust_env=False)
    assert telemetry.status().active


def test_a_propagator_that_raises_costs_its_headers_alone(api, memory, monkeypatch, caller):
    class Broken:
        def inject(self, *_args, **_kwargs):
            raise RuntimeError("the propagator's")

    monkeypatch.setattr("opentelemetry.propagate.propagator", Broken())
    monkeypatch.setattr("assisters_otel.clients.propagation.get_global_textmap", Broken)
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
    ) as telemetry:
        assert caller.send("GET", api.url + "/models").status_code == 200
        assert telemetry.status().last_failure == "RuntimeError: the propagator's"

    assert memory.attempt().name == "GET /v1/models"
    assert "traceparent" not in api.requests[0].headers


def test_the_handle_of_an_init_that_failed_says_why(memory, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("the tracer's")

    monkeypatch.setattr(memory.tracer_provider, "get_tracer", broken)
    telemetry = assisters_otel.init(
        tracer_provider=memory.tracer_provider, meter_provider=memory.meter_provider
    )

    assert telemetry.status().last_failure == "RuntimeError: the tracer's"
    assert not telemetry.status().active
    memory.collect()  # no reader asks what was never made whole
    telemetry.shutdown()


def test_a_provider_s_class_in_its_place_is_a_mistake_at_once():
    with pytest.raises(ValueError, match=r"the class TracerProvider\. Write tracer_provider="):
        assisters_otel.init(tracer_provider=TracerProvider)


def test_what_another_thread_has_done_already_is_no_trouble(telemetry, monkeypatch):
    class Emptied(deque):
        def __bool__(self):
            return True

    deferred = telemetry._instrumentation.recorder.deferred
    monkeypatch.setattr(deferred, "steps", Emptied())

    assert telemetry.flush()


@pytest.mark.parametrize("wrong", ["a", None, float("nan"), -1])
def test_a_wrong_time_for_a_flush_says_what_to_write(memory, wrong):
    with (
        assisters_otel.init(
            tracer_provider=memory.tracer_provider, meter_provider=memory.meter_provider
        ) as telemetry,
        pytest.raises(ValueError, match=r"Write flush\(5\)"),
    ):
        telemetry.flush(wrong)


def test_a_handle_s_repr_says_what_it_is(api, memory):
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
    ) as telemetry:
        assert repr(telemetry).startswith("<Telemetry active, 3 hosts, the application's ")
    assert repr(telemetry).startswith("<Telemetry inactive, ")


def test_the_instrumentor_refuses_what_is_no_provider():
    with pytest.raises(ValueError, match="tracer_provider is no provider: str"):
        assisters_otel.AssistersInstrumentor().instrument(tracer_provider="x")
    assert not assisters_otel.AssistersInstrumentor().is_instrumented_by_opentelemetry
