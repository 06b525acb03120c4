"""Each example runs, as its first line says, in a process of its own."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

import warm
from otlp import Collector

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*arguments, **variables):
    outside = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "ASSISTERS_")) and not name.lower().endswith("_proxy")
    }
    return warm.run(*arguments, env={**outside, **variables})


def quickstart(api, **variables):
    return run(
        EXAMPLES / "quickstart.py",
        ASSISTERS_BASE_URL=api.url,
        ASSISTERS_API_KEY="ask_test_1234567890",
        **variables,
    )


def test_every_example_is_run():
    here = Path(__file__)
    ended = here.parent / "runtimes" / "test_ended_examples.py"
    invoked = here.parent / "runtimes" / "test_lambda.py"
    checked = here.parent / "testing" / "test_retries_of_loops.py"
    run_by = "".join(path.read_text("utf-8") for path in (here, ended, invoked, checked))

    assert [path.name for path in EXAMPLES.glob("*.py") if path.stem not in run_by] == []


def test_the_quickstart_has_ten_lines_at_most():
    (docstring, *code) = ast.parse((EXAMPLES / "quickstart.py").read_text("utf-8")).body

    assert isinstance(docstring, ast.Expr)
    assert sum(node.end_lineno - node.lineno + 1 for node in code) <= 10


@pytest.mark.parametrize(
    ("answer", "printed", "status", "code"),
    [("ok", "200\n", "UNSET", None), ("api_key_revoked", "401\n", "ERROR", "api_key_revoked")],
)
def test_the_quickstart_sends_a_span_that_says_what_happened(api, answer, printed, status, code):
    api.answers(answer)
    with Collector() as collector:
        done = quickstart(api, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        (span,) = collector.spans()

    assert (done.returncode, done.stdout) == (0, printed), done.stderr
    assert (span.name, span.status[0]) == ("GET /v1/models", status)
    assert span.attributes.get("error.code") == code
    assert span.attributes["assisters.request.id"].startswith("req_")
    assert span.resource["service.name"] == "quickstart"
    assert api.requests[0].headers["authorization"] == "Bearer ask_test_1234567890"


def test_the_quickstart_says_nothing_but_its_status_when_all_is_well(api):
    done = quickstart(api, OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")

    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")


def test_the_quickstart_shows_its_span_on_a_console(api):
    api.answers("api_key_revoked")

    done = quickstart(api, OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="none")

    assert done.returncode == 0, done.stderr
    assert '"error.code": "api_key_revoked"' in done.stdout


@pytest.mark.parametrize("name", ["errors_in_tests.py", "telemetry_in_tests.py"])
def test_the_examples_that_are_tests_pass(name):
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / name)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_retries_of_an_sdk_and_of_a_loop_are_seen():
    done = run(EXAMPLES / "see_retries.py", NO_PROXY="127.0.0.1")

    assert done.returncode == 0, done.stderr
    sdk, _, loop = done.stdout.partition("A loop of your own")
    *attempts, call = spans(sdk)
    assert [one.get("http.request.resend_count") for one in attempts] == [None, 1, 2]
    reasons = [one.get("assisters.retry.reason") for one in attempts]
    assert reasons == [None, "rate_limit_exceeded", "model_overloaded"]
    assert (call["assisters.call.outcome"], call["assisters.retry.count"]) == ("recovered", 2)
    first, again = spans(loop)
    assert first["error.code"] == again["assisters.retry.reason"] == "rate_limit_exceeded"
    assert again["assisters.retry.early"] is True


def spans(printed):
    """The attributes of each span that the example has printed."""
    told = []
    for line in printed.splitlines():
        if line.startswith(("POST ", "GET ", "chat ")):
            told.append({})
        elif " = " in line:
            name, _, value = line.strip().partition(" = ")
            told[-1][name] = ast.literal_eval(value)
    return told


# -- one question each ---------------------------------------------------------------------------


def example(name, api, collector, *, by=(), **variables):
    done = run(
        *by,
        EXAMPLES / name,
        ASSISTERS_BASE_URL=api.url,
        ASSISTERS_API_KEY="ask_test_1234567890",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        **variables,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def collector():
    with Collector() as collector:
        yield collector


def test_the_openai_example_explains_what_was_refused(api, collector):
    api.answers("tokens_exhausted", times=3)

    printed = example("openai_sdk.py", api, collector)

    assert "The API answered 429 tokens_exhausted." in printed
    assert "A retry does not help." in printed
    (call,) = [span for span in collector.spans() if span.name.startswith("chat")]
    assert call.trace_id in printed
    assert example("openai_sdk.py", api, collector) == "Hello from the fake API.\n"


def test_the_assisters_example_has_code_and_id_again(api, collector):
    api.answers("insufficient_funds", request_id="req_1")

    assert example("assisters_sdk.py", api, collector) == "insufficient_funds req_1\n"
    assert example("assisters_sdk.py", api, collector) == "Hello from the fake API.\n"


@pytest.mark.parametrize(
    ("answer", "says", "outcome"),
    [
        ({}, "Hello from the fake API.\n", "completed"),
        ({"fault": "unfinished"}, "Hello", "truncated"),
        ({"in_stream": "internal_error"}, "its stream failed: internal_error", "error"),
    ],
)
def test_the_streaming_example_s_call_says_how_it_ended(api, collector, answer, says, outcome):
    api.answers(**answer)

    assert says in example("streaming.py", api, collector)
    (call,) = [span for span in collector.spans() if span.name.startswith("chat")]
    assert call.attributes["assisters.stream.outcome"] == outcome


def test_the_batch_is_one_trace(api, collector):
    api.answers("invalid_model")

    printed = example("async_batch.py", api, collector)

    assert printed.count(": ok") == 5
    assert "400 invalid_model" in printed
    spans_sent = collector.spans()
    assert len({span.trace_id for span in spans_sent}) == 1
    assert sum(span.name == "embeddings assisters-embed-v1" for span in spans_sent) == 6


def test_the_service_s_users_get_a_sentence_and_a_reference(api, collector):
    api.answers("api_key_revoked", message="what nobody may see")
    script = (
        "from fastapi.testclient import TestClient; import fastapi_service as s; "
        "c = TestClient(s.app, raise_server_exceptions=False).__enter__(); "
        "r = c.get('/greeting?name=Ada'); print(r.status_code, r.json()); "
        "print(c.get('/greeting?name=Ada').json()); c.__exit__(None, None, None)"
    )
    done = run(
        "-c",
        script,
        PYTHONPATH=str(EXAMPLES),
        ASSISTERS_BASE_URL=api.url,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert done.returncode == 0, done.stderr
    refused, greeted = done.stdout.splitlines()
    assert refused.startswith("502 {'message': 'This feature is not available right now.")
    assert "nobody" not in refused
    assert greeted == "{'greeting': 'Hello from the fake API.'}"
    works = [span for span in collector.spans() if span.name == "greeting"]
    (failed,) = [span for span in works if span.trace_id in refused]
    calls = [span for span in collector.spans() if span.name == "chat assisters-chat-v1"]
    assert {call.parent_span_id for call in calls} == {span.span_id for span in works}
    assert failed.trace_id in refused


def test_a_tenant_is_on_spans_and_metrics_once_it_is_known(api, collector):
    api.answers("ok", "insufficient_funds")
    script = (
        "from fastapi.testclient import TestClient; import tenant_with_fastapi as s; "
        "c = TestClient(s.app, raise_server_exceptions=False).__enter__(); "
        "ask = lambda **h: print(c.get('/greeting?name=Ada', headers=h).status_code); "
        "ask(baggage='tenant=umbrella'); "
        "ask(authorization='Bearer token-of-acme', baggage='tenant=umbrella'); "
        "ask(authorization='Bearer token-of-umbrella'); c.__exit__(None, None, None)"
    )
    done = run(
        "-c",
        script,
        PYTHONPATH=os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH")])),
        ASSISTERS_BASE_URL=api.url,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )

    assert done.stdout.split() == ["401", "200", "500"], done.stderr
    calls = [span for span in collector.spans() if span.name == "chat assisters-chat-v1"]
    told = {call.attributes["tenant"]: call.attributes["assisters.call.outcome"] for call in calls}
    assert told == {"acme": "ok", "umbrella": "failed"}
    (error,) = collector.points("assisters.client.errors")
    assert error.attributes["tenant"] == "umbrella"
    assert len(api.requests) == 2
    assert not [one for one in api.requests if "baggage" in one.headers]


def test_the_retries_of_urllib3_are_on_the_span(api, collector):
    api.answers("rate_limit_exceeded", retry_after=0)
    api.answers("model_overloaded", "ok")

    assert example("with_requests.py", api, collector) == "The API answered 200.\n"
    (span,) = collector.spans()
    assert span.attributes["http.request.resend_count"] == 2


def test_what_aiohttp_sends_again_by_itself_is_seen(api, collector):
    api.answers(fault="drop")

    assert example("with_aiohttp.py", api, collector) == "The API answered 200.\n"
    first, again = collector.spans()
    assert first.attributes["error.type"] == "ServerDisconnectedError"
    assert again.attributes["http.request.resend_count"] == 1
    assert again.attributes["assisters.retry.reason"] == "ServerDisconnectedError"


def test_an_app_without_a_line_of_telemetry_is_seen(api, collector):
    api.answers("api_key_revoked")

    printed = example(
        "zero_code.py",
        api,
        collector,
        by=(Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable),
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
    )

    assert printed == "401\n"
    (span,) = [span for span in collector.spans() if span.kind == "CLIENT"]
    assert span.attributes["error.code"] == "api_key_revoked"


def test_an_app_s_own_providers_are_used(api, collector):
    api.answers("api_key_revoked")

    printed = example("existing_providers.py", api, collector)

    assert '"error.code": "api_key_revoked"' in printed
    assert '"assisters.client.errors"' in printed
    assert collector.requests == []
