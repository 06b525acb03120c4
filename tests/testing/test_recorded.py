"""`recorded()` and `assisters_telemetry`: what an app's own test sees, in whatever state."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress

import httpx
import openai
import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import assisters_otel
from assisters_otel import process
from assisters_otel.testing import FakeApi, recorded
from memory import Memory
from otlp import Collector

EXPORTERS = "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"
MESSAGES = [{"role": "user", "content": "what somebody typed"}]


def get(api, path="/models"):
    return httpx.get(api.url + path, trust_env=False)


def codes(seen):
    return [span.attributes.get("error.code") for span in seen.attempts]


# -- what is seen ---------------------------------------------------------------------------------


def test_spans_points_and_log_lines_of_an_attempt_are_seen(api):
    api.answers("rate_limit_exceeded", request_id="req_1")

    with recorded() as seen:
        get(api)

    (span,) = seen.attempts
    assert span.attributes["error.code"] == "rate_limit_exceeded"
    assert span.attributes["assisters.request.id"] == "req_1"
    (point,) = seen.points("assisters.client.errors")
    assert (point.value, point.attributes["error.code"]) == (1, "rate_limit_exceeded")
    (line,) = seen.logs
    assert "rate_limit_exceeded" in line.getMessage()
    assert "req_1" in line.getMessage()


def test_a_call_of_an_sdk_is_seen_with_its_attempts(api):
    api.answers("model_overloaded")

    with recorded() as seen, openai.OpenAI(base_url=api.url, api_key="ask_test") as client:
        client.chat.completions.create(model="assisters-chat-v1", messages=MESSAGES)

    (call,) = seen.calls
    assert call.attributes["assisters.call.outcome"] == "recovered"
    assert codes(seen) == ["model_overloaded", None]
    assert {span.context.trace_id for span in seen.spans} == {call.context.trace_id}
    (point,) = seen.points("assisters.client.call.attempts")
    assert (point.count, point.sum) == (1, 2)


def test_an_event_stream_is_seen(api):
    api.answers(fault="unfinished")

    with recorded() as seen:
        httpx.post(api.url + "/chat/completions", json={"stream": True}, trust_env=False)

    (stream,) = seen.streams
    assert stream.attributes["assisters.stream.outcome"] == "truncated"


def test_what_is_seen_can_be_asked_for_inside_and_stays_as_it_was_at_the_end(api):
    with recorded() as seen:
        assert (seen.spans, seen.points(), seen.logs) == ((), (), ())
        api.answers("invalid_model")
        get(api)
        assert codes(seen) == ["invalid_model"]
        assert seen.points("assisters.client.errors")[0].value == 1
        get(api)
    spans, points = seen.spans, seen.points()
    get(api)

    assert len(spans) == 2
    assert (seen.spans, seen.points()) == (spans, points)


def test_nothing_from_before_is_seen(api):
    with recorded():
        api.answers("invalid_model")
        get(api)
    with recorded() as seen:
        pass

    assert (seen.spans, seen.points(), seen.logs) == ((), (), ())


def test_a_host_that_is_not_the_api_is_not_seen_unless_it_is_named(api):
    gateway = f"http://127.0.0.1:{api.port}/elsewhere"
    with recorded() as seen:
        httpx.get(gateway, trust_env=False)
    with recorded(hosts=[gateway]) as named:
        httpx.get(gateway, trust_env=False)

    assert (len(seen.attempts), len(named.attempts)) == (0, 1)


def test_a_wrong_host_is_said_at_once():
    with pytest.raises(ValueError, match="Write host"), recorded(hosts=["http://"]):
        pass
    with pytest.raises(ValueError, match="with brackets"), recorded(hosts="gateway.example"):
        pass
    assert process.PROCESS.current is None


# -- whatever the state ---------------------------------------------------------------------------


def test_init_returns_the_recording_s_handle_without_a_warning(api):
    with recorded() as seen:
        first = assisters_otel.init("checkout", endpoint="http://localhost:1")
        second = assisters_otel.init("other", hosts=["gateway.example"])
        get(api)

    assert first is second
    assert len(seen.attempts) == 1
    assert seen.logs == ()


def test_a_wrong_argument_of_init_is_said_here_too():
    with recorded(), pytest.raises(ValueError, match="protocol"):
        assisters_otel.init(protocol="carrier pigeon")


def test_an_app_that_shuts_down_what_init_gave_it_goes_on_being_recorded(api):
    with recorded() as seen:
        for _ in range(2):
            with assisters_otel.init("checkout") as handle:
                get(api)
                assert handle.flush(1) is True
                assert handle.status().active

    assert len(seen.attempts) == 2
    assert not handle.status().active


def test_the_earlier_handle_is_back_afterwards_and_has_seen_nothing_of_it(api, memory):
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ) as earlier:
        get(api)
        with recorded() as seen:
            assert assisters_otel.init() is not earlier
            assert not earlier.status().active
            get(api)
            get(api)
        get(api)
        again = assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        )
        assert again is earlier
        assert (earlier.status().active, earlier.status().attempts) == (True, 2)

    assert len(seen.attempts) == 2
    assert len(memory.attempts()) == 2
    assert memory.point("assisters.client.request.duration")["count"] == 2


@pytest.mark.usefixtures("telemetry")
def test_a_resend_is_known_to_be_one_after_a_recording(api, memory):
    api.answers("internal_error")
    with httpx.Client(base_url=api.url, trust_env=False) as client:
        client.post("/moderate", json={"input": "hello"})
        with recorded():
            pass
        client.post("/moderate", json={"input": "hello"})

    assert memory.attempts()[1].attributes["http.request.resend_count"] == 1


def test_an_earlier_handle_that_is_shut_down_inside_is_not_back(api, memory):
    earlier = assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
    )
    with recorded() as seen:
        earlier.shutdown()
        get(api)
    get(api)

    assert process.PROCESS.current is None
    assert (len(seen.attempts), memory.attempts()) == (1, [])


def test_an_instrumentor_that_was_switched_on_without_init_is_back_afterwards(api, memory):
    instrumentor = assisters_otel.AssistersInstrumentor()
    instrumentor.instrument(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
    )
    try:
        with recorded() as seen:
            get(api)
        get(api)
    finally:
        instrumentor.uninstrument()

    assert (len(seen.attempts), len(memory.attempts())) == (1, 1)


def test_spans_of_the_app_s_own_http_instrumentation_are_seen():
    """Its spans go to a provider of the app's, and that is the global one."""
    code = """
import sys, httpx
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from assisters_otel.testing import FakeApi, recorded
trace.set_tracer_provider(TracerProvider())
HTTPXClientInstrumentor().instrument()
with FakeApi() as api:
    for _ in range(2):
        api.answers("invalid_model")
        with recorded() as seen, trace.get_tracer("app").start_as_current_span("work"):
            httpx.get(api.url + "/models", trust_env=False)
        print([span.attributes.get("error.code") for span in seen.attempts], len(seen.spans))
    with recorded() as outer, recorded() as inner:
        httpx.get(api.url + "/models", trust_env=False)
    print(len(outer.attempts), len(inner.attempts))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout.splitlines() == ["['invalid_model'] 2"] * 2 + ["1 1"], done.stderr


def test_the_app_s_own_http_instrumentation_is_left_as_it_was(api, memory):
    met = []
    HTTPXClientInstrumentor().instrument(
        tracer_provider=memory.tracer_provider, request_hook=lambda *_: met.append(1)
    )
    try:
        with recorded() as seen:
            get(api)
        get(api)
    finally:
        HTTPXClientInstrumentor().uninstrument()

    assert len(met) == 2
    assert seen.points("assisters.client.request.duration")[0].count == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-1"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "odd"),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "odd"),
        ("ASSISTERS_OTEL_HOSTS", "http://"),
        ("ASSISTERS_OTEL_CAPTURE_MESSAGE", "odd"),
    ],
)
def test_no_variable_changes_what_is_seen(api, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    api.answers("invalid_model")

    with recorded() as seen:
        assisters_otel.init()
        get(api)

    assert codes(seen) == ["invalid_model"]
    assert seen.points("assisters.client.errors")[0].value == 1
    assert len(seen.logs) == 1


@pytest.mark.parametrize("how", ["level", "disabled", "disable", "filter"])
def test_log_lines_are_seen_however_the_app_has_silenced_them(api, caplog, how):
    logger = logging.getLogger("assisters_otel")
    before = logger.level, logger.disabled, logging.root.manager.disable

    def refuse(_record):
        return False

    try:
        if how == "level":
            logger.setLevel(logging.CRITICAL)
        elif how == "disabled":
            logger.disabled = True
        elif how == "disable":
            logging.disable(logging.CRITICAL)
        else:
            logger.addFilter(refuse)
        api.answers("invalid_model")
        with recorded() as seen:
            get(api)
    finally:
        logger.removeFilter(refuse)
        logger.setLevel(before[0])
        logger.disabled = before[1]
        logging.disable(before[2])

    assert len(seen.logs) == 1
    assert caplog.records == []  # silenced for everybody else, as it was


def test_log_lines_reach_the_app_s_handlers_all_the_same(api, caplog):
    api.answers("invalid_model")

    with recorded() as seen:
        get(api)

    assert [record.getMessage() for record in caplog.records] == [
        line.getMessage() for line in seen.logs
    ]


def test_nothing_is_exported(api):
    with Collector() as collector:
        earlier = assisters_otel.init(endpoint=collector.endpoint, hosts=[api.url])
        try:
            with recorded() as seen:
                get(api)
                assisters_otel.init().flush(5)
            earlier.flush(5)
        finally:
            earlier.shutdown()

        assert len(seen.attempts) == 1
        assert [span for span in collector.spans() if span.kind == "CLIENT"] == []


def test_a_recording_that_never_ends_keeps_no_exit_from_sending_the_rest(api):
    code = """
import sys, httpx, assisters_otel
from assisters_otel.testing import recorded
assisters_otel.init(hosts=[sys.argv[1]])
httpx.get(sys.argv[1] + "/models", trust_env=False)
never_left = recorded()
never_left.__enter__()
httpx.get(sys.argv[1] + "/wallet/balance", trust_env=False)
"""
    with Collector() as collector:
        done = subprocess.run(
            [sys.executable, "-c", code, api.url],
            env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint},
            capture_output=True,
            text=True,
            check=False,
        )
        sent = [span.name for span in collector.spans()]

    assert sent == ["GET /v1/models"], done.stderr


def test_it_works_after_a_shutdown_and_before_an_init(api, memory):
    assisters_otel.init(tracer_provider=TracerProvider(), meter_provider=MeterProvider()).shutdown()
    with recorded() as seen:
        get(api)
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
    ):
        get(api)

    assert (len(seen.attempts), len(memory.attempts())) == (1, 1)


# -- nested, in threads and tasks -----------------------------------------------------------------


def test_the_outer_of_two_sees_what_the_inner_one_sees(api):
    with recorded() as outer:
        get(api)
        with recorded() as inner:
            api.answers("invalid_model")
            get(api)
        get(api)

    assert (len(outer.attempts), len(inner.attempts)) == (3, 1)
    assert outer.points("assisters.client.request.duration") != ()
    assert sum(p.count for p in outer.points("assisters.client.request.duration")) == 3
    assert [p.count for p in inner.points("assisters.client.request.duration")] == [1]
    assert len(outer.logs) == len(inner.logs) == 1


def test_the_inner_one_s_hosts_are_watched_as_long_as_it_lasts(api):
    gateway = f"http://127.0.0.1:{api.port}/elsewhere"
    with recorded() as outer:
        with recorded(hosts=[gateway]) as inner:
            httpx.get(gateway, trust_env=False)
        httpx.get(gateway, trust_env=False)

    assert (len(outer.attempts), len(inner.attempts)) == (1, 1)


def test_those_that_overlap_may_end_in_any_order(api):
    one, other = recorded(), recorded()
    first = one.__enter__()
    second = other.__enter__()
    get(api)
    one.__exit__(None, None, None)
    get(api)
    other.__exit__(None, None, None)
    get(api)

    assert (len(first.attempts), len(second.attempts)) == (1, 2)
    assert process.PROCESS.current is None


def test_what_threads_and_tasks_do_inside_is_seen(api):
    async def all_of_them():
        async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
            await asyncio.gather(*(client.get("/models") for _ in range(3)))

    with recorded() as seen:
        threads = [threading.Thread(target=get, args=(api,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(all_of_them())

    assert len(seen.attempts) == 6


def test_what_is_raised_inside_is_raised_and_nothing_is_left():
    functions = httpx.HTTPTransport.handle_request, openai._base_client.SyncAPIClient.request

    with suppress(KeyError), recorded():
        raise KeyError("the test's own")

    assert process.PROCESS.current is None
    assert process.PROCESS.instrumentation is None
    assert functions == (
        httpx.HTTPTransport.handle_request,
        openai._base_client.SyncAPIClient.request,
    )


def test_a_hundred_recordings_leave_no_thread_no_instrument_and_no_callback(api, memory):
    def left():
        gauges = memory.meter_provider._measurement_consumer._async_instruments
        return len(gauges), len(gc.callbacks), len(sys.meta_path)

    threads = set(threading.enumerate())

    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
    ):
        get(api)
        before = left()
        for _ in range(100):
            with recorded():
                get(api)
        assert left() == before
    without = left()
    for _ in range(3):
        with recorded():
            get(api)

    assert left() == without
    assert set(threading.enumerate()) <= threads


# -- the fixture ----------------------------------------------------------------------------------


def test_the_fixture_gives_the_server_and_what_was_recorded(assisters_telemetry):
    api, seen = assisters_telemetry
    api.answers("tokens_exhausted")

    get(api)

    assert isinstance(assisters_telemetry.api, FakeApi)
    assert codes(assisters_telemetry.recorded) == codes(seen) == ["tokens_exhausted"]


def test_the_fixture_s_server_is_that_of_the_other_fixture(assisters_api, assisters_telemetry):
    assert assisters_telemetry.api is assisters_api


def test_a_recording_needs_no_web_server():
    code = (
        "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None\n"
        "from assisters_otel.testing import recorded\n"
        "with recorded() as seen: print(len(seen.spans))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize(
    ("plugin", "mark"), [("anyio", "pytest.mark.anyio"), ("pytest_asyncio", "pytest.mark.asyncio")]
)
def test_in_parallel_and_in_async_tests_each_sees_its_own(tmp_path, plugin, mark):
    pytest.importorskip(plugin)
    (tmp_path / "test_it.py").write_text(
        """
import asyncio, httpx, pytest
import assisters_otel
assisters_otel.init("an app that is imported")

@pytest.mark.parametrize("number", range(4))
def test_sync(assisters_telemetry, number):
    api, seen = assisters_telemetry
    for _ in range(number):
        httpx.get(api.url + "/models")
    assert len(seen.attempts) == number

@MARK
@pytest.mark.parametrize("number", range(4))
async def test_async(assisters_telemetry, number):
    api, seen = assisters_telemetry
    async with httpx.AsyncClient() as client:
        await asyncio.gather(*(client.get(api.url + "/models") for _ in range(number)))
    assert len(seen.attempts) == number

@pytest.fixture
def anyio_backend():
    return "asyncio"
""".replace("MARK", mark),
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        env={**os.environ, **dict.fromkeys(EXPORTERS, "none")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "8 passed" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def memory():
    memory = Memory()
    yield memory
    memory.shutdown()
