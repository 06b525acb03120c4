"""What stands on an attempt's span, whoever's HTTP instrumentation makes it."""

from __future__ import annotations

import time

import pytest
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor

from assisters_otel import catalog
from callers import ANYONE

INSTRUMENTORS = {
    "httpx": HTTPXClientInstrumentor,
    "httpx2": HTTPX2ClientInstrumentor,
    "requests": RequestsInstrumentor,
    "aiohttp": AioHttpClientInstrumentor,
}
NOBODY = "http://127.0.0.1:1/v1/models"

pytestmark = pytest.mark.usefixtures("telemetry")


@pytest.fixture(params=["by us", "by the app"])
def _instrumented(request, memory, anyone):
    theirs = INSTRUMENTORS[anyone.module.__name__]()
    if request.param == "by the app":
        theirs.instrument(
            tracer_provider=memory.tracer_provider, meter_provider=memory.meter_provider
        )
    yield
    if request.param == "by the app":
        theirs.uninstrument()


def exceptions(span):
    """What each exception event of a span says: nothing may be lost, and nothing be there twice."""
    assert {event.name for event in span.events} <= {"exception"}
    return [event.attributes["exception.message"] for event in span.events]


@pytest.mark.usefixtures("_instrumented")
@pytest.mark.parametrize("fault", ["a refused connection", "drop"])
def test_the_exception_in_place_of_an_answer_is_on_the_span_once(api, memory, anyone, fault):
    if fault == "drop":
        api.answers(fault=fault)
    else:
        api.stop()

    with pytest.raises(anyone.broken) as raised:
        anyone.send("POST", f"{api.url}/models")  # a GET that is dropped, aiohttp sends again

    assert exceptions(memory.attempt()) == [str(raised.value)]
    assert str(raised.value)


# aiohttp's exceptions quote neither a header nor the query.
@pytest.mark.usefixtures("_instrumented")
@pytest.mark.parametrize("anyone", [one for one in ANYONE if one.name != "aiohttp"], ids=str)
def test_a_key_that_an_exception_quotes_is_not_on_its_span(api, memory, anyone):
    url, headers = f"{api.url}/models", {}
    if anyone.name == "requests":  # it quotes the URL of a refused connection
        url += "?api_key=ask_live_0123456789"
        api.stop()
    else:  # h11 quotes a header
        headers["Authorization"] = "Bearer ask_live_0123456789\n"

    with pytest.raises(anyone.broken, match="ask_live_0123456789"):
        anyone.send("GET", url, headers=headers)

    span = memory.attempt()
    (told,) = exceptions(span)
    assert "REDACTED" in told
    assert "ask_live" not in span.to_json()


@pytest.mark.usefixtures("_instrumented")
@pytest.mark.parametrize("anyone", [one for one in ANYONE if not one.hops_have_spans], ids=str)
def test_the_exception_of_a_redirect_s_hop_is_on_the_app_s_span_once(request, api, memory, anyone):
    api.answers(redirect=NOBODY)

    with pytest.raises(anyone.refused) as raised:
        anyone.send("GET", f"{api.url}/models", follow_redirects=True)

    # The library's own span is one hop's, and the host that was not reached is not watched.
    is_theirs = "by the app" in request.node.name
    assert exceptions(memory.attempt()) == [str(raised.value)] * is_theirs


def test_no_refusal_but_a_429_has_rate_limits_on_its_span(api, memory, anyone):
    """All of them come with the same headers, a reset among them."""
    headers = {
        f"x-ratelimit-{what}-{of}": value
        for what, value in (("limit", 60), ("remaining", 0), ("reset", int(time.time()) + 60))
        for of in ("rpm", "tpm")
    }
    for error in catalog.ERRORS:
        api.answers(error.code, headers=headers)
        anyone.send("POST", f"{api.url}/embeddings", json={})

    for error, span in zip(catalog.ERRORS, memory.attempts(), strict=True):
        told = [name for name in span.attributes if name.startswith("assisters.ratelimit.")]
        assert len(told) == (6 if error.status == 429 else 0)
