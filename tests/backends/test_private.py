"""What the collector takes out of spans, and that it leaves everybody else's alone."""

from __future__ import annotations

import json
import secrets
from urllib.request import Request, urlopen

import pytest
from servers import Collector, tags, within

PROMPT = "planted-prompt"
OURS = f"https://api.assisters.dev/v1/agent/stream?prompt={PROMPT}"
ELSEWHERE = f"https://example.com/agent/stream?prompt={PROMPT}"


def send(collector, *, status="", events=(), **attributes):
    """One span by OTLP/JSON, as any SDK of any language may send it; its trace's id."""

    def listed(values):
        return [{"key": k, "value": {"stringValue": v}} for k, v in values.items()]

    trace = secrets.token_hex(16)
    span = {
        "traceId": trace,
        "spanId": secrets.token_hex(8),
        "name": "GET",
        "kind": 3,
        "startTimeUnixNano": "1800000000000000000",
        "endTimeUnixNano": "1800000001000000000",
        "attributes": listed({name.replace("_", "."): v for name, v in attributes.items()}),
        "events": [{"name": "exception", "attributes": listed(one)} for one in events],
        "status": {"code": 2, "message": status},
    }
    resource = {"attributes": listed({"service.name": "other-language"})}
    body = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}
    request = Request(  # noqa: S310 - our own server
        f"{collector.http}/v1/traces",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urlopen(request, timeout=10):  # noqa: S310
        return trace


def found(stack, trace):
    spans = within(40, lambda: stack.jaeger.trace(trace))
    assert spans
    return spans[0]


@pytest.mark.parametrize("name", ["url_full", "http_url"])
def test_a_prompt_in_a_url_is_redacted_whatever_sent_it(stack, name):
    failed = f"cannot connect to {OURS}"
    trace = send(
        stack.collector,
        status=failed,
        events=[{"exception.message": failed, "exception.stacktrace": f"E: {failed}"}],
        url_query=f"prompt={PROMPT}",
        http_target=f"/v1/agent/stream?prompt={PROMPT}",
        **{name: OURS},
    )

    span = found(stack, trace)

    assert PROMPT not in str(span)
    assert tags(span)[name.replace("_", ".")] == OURS.split("?", maxsplit=1)[0] + "?REDACTED"
    assert tags(span)["url.query"] == "REDACTED"
    assert "/v1/agent/stream?REDACTED" in tags(span)["otel.status_description"]


def test_the_same_behind_a_gateway_that_assisters_otel_watches(stack):
    trace = send(
        stack.collector,
        url_full=f"http://gateway:8080/api/v1/agent/stream?prompt={PROMPT}",
        url_template="/v1/agent/stream",
    )

    assert PROMPT not in str(found(stack, trace))


def test_another_service_s_data_passes_untouched(stack):
    trace = send(
        stack.collector,
        status=f"cannot connect to {ELSEWHERE}",
        events=[{"exception.message": f"cannot connect to {ELSEWHERE}"}],
        url_full=ELSEWHERE,
        url_query=f"prompt={PROMPT}",
        error_message="theirs",
    )

    span = found(stack, trace)

    assert tags(span)["url.full"] == ELSEWHERE
    assert tags(span)["url.query"] == f"prompt={PROMPT}"
    assert tags(span)["error.message"] == "theirs"
    assert tags(span)["otel.status_description"] == f"cannot connect to {ELSEWHERE}"
    assert ELSEWHERE in str(span["logs"])


def test_a_message_that_an_app_captured_is_dropped(stack, app):
    shop = app("talkative", stack.collector.http, ASSISTERS_OTEL_CAPTURE_MESSAGE="true")

    shop.does("each", "invalid_request", message="planted-message")

    (spans,) = within(40, lambda: stack.jaeger.search("talkative", error_code="invalid_request"))
    assert "planted-message" not in str(spans)


def test_a_message_is_kept_where_the_same_switch_is_on(stack, app, tmp_path):
    keeping = Collector(
        tmp_path, JAEGER_OTLP_ENDPOINT=stack.jaeger.otlp, ASSISTERS_OTEL_CAPTURE_MESSAGE="true"
    )
    try:
        shop = app("open", keeping.http, ASSISTERS_OTEL_CAPTURE_MESSAGE="true")
        shop.does("each", "invalid_request", message="planted-message")

        (trace,) = within(40, lambda: stack.jaeger.search("open", error_code="invalid_request"))
    finally:
        keeping.stop()
    assert tags(trace["spans"][0])["assisters.error.message"] == "planted-message"
