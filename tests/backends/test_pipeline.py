"""From an app of its own process, over the shipped collector, to Jaeger and Prometheus."""

from __future__ import annotations

import pytest
from servers import tags, within
from stories import CLIENTS

from assisters_otel import catalog

pytestmark = pytest.mark.usefixtures("told")
CODES = [error.code for error in catalog.ERRORS]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("code", CODES)
def test_each_code_is_found_in_jaeger(stack, client, code):
    asked = {"error_code": code, "assisters_call_outcome": "failed"}
    found = within(15, lambda: stack.jaeger.search(f"shop-{client}", **asked))

    assert len(found) == 1
    spans = sorted(found[0]["spans"], key=lambda span: span["startTime"])
    call, *attempts = spans
    assert tags(call)["assisters.call.outcome"] == "failed"
    assert tags(call)["error.code"] == code
    retried = catalog.find(code).status in (429, 500, 503)  # by the SDKs, help or not
    assert len(attempts) == (3 if retried else 1)
    for number, attempt in enumerate(attempts):
        said = tags(attempt)
        assert said["error.code"] == code
        assert said["assisters.request.id"].startswith("req_")
        assert said.get("http.request.resend_count", 0) == number
        links = [one for one in attempt["references"] if one["refType"] == "FOLLOWS_FROM"]
        assert [one["spanID"] for one in links] == (
            [attempts[number - 1]["spanID"]] if number else []
        )
        parents = [one for one in attempt["references"] if one["refType"] == "CHILD_OF"]
        assert [one["spanID"] for one in parents] == [call["spanID"]]
    assert "planted" not in str(found)


def test_a_recovered_call_is_no_error_in_jaeger(stack):
    found = within(
        15, lambda: stack.jaeger.search("shop-openai", assisters_call_outcome="recovered")
    )

    call, *attempts = sorted(found[0]["spans"], key=lambda span: span["startTime"])
    assert call["operationName"] == "chat assisters-chat-v1"
    assert "error" not in tags(call)
    assert tags(call)["assisters.retry.count"] == 2
    assert tags(call)["assisters.retry.wait"] >= 0.2
    assert [tags(one).get("assisters.retry.reason") for one in attempts] == [
        None,
        "rate_limit_exceeded",
        "model_overloaded",
    ]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("code", CODES)
def test_each_code_is_a_series_in_prometheus(stack, client, code):
    query = f'assisters_client_errors_total{{error_code="{code}",service_name="shop-{client}"}}'

    found = within(15, lambda: stack.prometheus.query(query))

    error = catalog.find(code)
    assert sum(series["value"] for series in found) >= 1
    for series in found:
        assert series["error_type"] == error.type
        assert series["http_response_status_code"] == str(error.status)
        assert series["assisters_error_retryable"] == str(error.retryable).lower()
        assert series["deployment_environment_name"] == "test"
        assert series["job"] == f"shop-{client}"


def test_only_the_service_s_own_keys_become_labels(stack):
    series = stack.prometheus.query("assisters_client_errors_total")

    assert "planted" not in str(series)
    assert "secret" not in str(series)
    labels = {label for one in series for label in one} - {"value", "__name__"}
    assert {
        label for label in labels if label.startswith(("process", "telemetry", "host"))
    } == set()


def test_an_exemplar_leads_to_a_trace_that_jaeger_has(stack, app):
    # An export without a new exemplar takes the old one away: it has to stay for a scrape or two.
    shop = app("exemplary", stack.collector.http, OTEL_METRIC_EXPORT_INTERVAL="10000")
    shop.does("each", "internal_error")
    shop.does("flush")

    for metric in ("request_duration_seconds_bucket", "errors_total"):
        query = f'assisters_client_{metric}{{service_name="exemplary"}}'
        found = within(10, lambda query=query: stack.prometheus.exemplars(query))
        assert found, metric
        trace = found[0]["trace_id"]
        assert within(10, lambda trace=trace: stack.jaeger.trace(trace))


def test_the_first_occurrence_is_an_increase(stack):
    """Counters are born at 1: without their created timestamp increase() would be 0."""
    query = 'sum(increase(assisters_client_errors_total{error_code="api_key_revoked"}[10m]))'

    assert within(15, lambda: stack.prometheus.query(query))[0]["value"] > 0.5


def test_spans_are_counted_by_code(stack):
    of = 'error_code!="",service_name=~"shop-.*"'
    query = f"sum by (error_code) (traces_span_metrics_calls_total{{{of}}})"

    found = within(40, lambda: stack.prometheus.query(query))

    assert {series["error_code"] for series in found} == set(CODES)
    of = 'deployment_environment_name="test",service_name="shop-openai"'
    assert stack.prometheus.query(f"traces_span_metrics_calls_total{{{of}}}"), "by service"


def test_the_prompt_of_an_agent_s_stream_stays_at_home(stack):
    asked = {"url_template": "/v1/agent/stream"}
    found = within(15, lambda: stack.jaeger.search("shop-openai", **asked))

    assert found
    assert "planted-prompt" not in str(found)


def test_the_app_notices_nothing(told):
    assert told["shop-openai"]["api_key_revoked"] == "AuthenticationError"
    assert told["shop-openai"] == told["shop-openai-async"]
    assert told["shop-assisters"]["api_key_revoked"] == "AuthError"


@pytest.mark.parametrize("client", ["openai", "assisters", "httpx"])
@pytest.mark.parametrize(
    ("script", "outcome", "error"),
    [
        ({"fault": "truncate"}, "error", {"error_type": "RemoteProtocolError"}),
        ({"fault": "unfinished"}, "truncated", {"error_type": "truncated"}),
        ({"in_stream": "model_overloaded"}, "error", {"error_code": "model_overloaded"}),
    ],
)
def test_a_stream_that_is_cut_off_half_way_is_found_in_jaeger(
    stack, app, client, script, outcome, error
):
    service = f"{client}-{script.get('fault', 'event')}"
    shop = app(service, stack.collector.http)
    shop.does("stream", client, **script)

    asked = {"assisters_stream_outcome": outcome, **error}
    (trace,) = within(15, lambda: stack.jaeger.search(service, **asked))

    (span,) = [one for one in trace["spans"] if "assisters.stream.outcome" in tags(one)]
    assert span["operationName"] == (
        "assisters.stream" if client == "httpx" else "chat assisters-chat-v1"
    )
    assert tags(span)["assisters.stream.chunks"] >= 1
    assert tags(span)["assisters.request.id"].startswith("req_")
    assert tags(span)["error"] is True
    of = f'service_name="{service}",http_response_status_code="200"'
    query = f"sum(assisters_client_errors_total{{{of}}})"
    assert within(15, lambda: stack.prometheus.query(query))[0]["value"] == 1
    assert "planted" not in str(trace)
