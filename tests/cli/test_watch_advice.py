"""`watch` advises what `explain` advises, from spans alone, for whatever fails in a call."""

from __future__ import annotations

import uuid

import httpx
import openai
import pytest
import requests

import assisters_otel
from watched import advised, shown

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}
STRANGE = {"error": {"code": "strange", "type": "odd_error", "message": "x"}}

ANSWERS = {
    "half a document": {"status": 200, "body": b"{", "headers": JSON},
    "a broken body": {"fault": "truncate"},
    "no answer": {"fault": "drop"},
    "a late one": {"fault": "silence"},
    "a code": {"error": "context_length_exceeded"},
    "an unknown code": {"status": 400, "json": STRANGE},
    "an unknown code of a busy API": {"status": 500, "json": STRANGE},
    "a proxy's": {"status": 502, "body": "<html>"},
    "a proxy's password": {"status": 407, "body": "<html>"},
    "a path": {"status": 404, "body": "<html>"},
}


def of_openai(url, **more):
    content = str(uuid.uuid4())  # the same again would be a resend
    with openai.OpenAI(base_url=url, api_key="ask_k", max_retries=0, timeout=0.5) as client:
        made = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": content}], **more
        )
        return list(made) if more else made


def of_httpx(url):
    sent = {"a": str(uuid.uuid4())}
    httpx.post(f"{url}/moderate", json=sent, trust_env=False, timeout=0.5).raise_for_status()


def of_requests(url):
    with requests.Session() as session:
        session.trust_env = False
        sent = {"a": str(uuid.uuid4())}
        session.post(f"{url}/moderate", json=sent, timeout=0.5).raise_for_status()


def failed(ask, url):
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each client's own
        ask(url)
    return assisters_otel.explain(raised.value)


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (ask, answer)
        for ask in (of_openai, of_httpx, of_requests)
        for answer in ANSWERS
        # Only an SDK makes a failure of these.
        if ask is of_openai or answer not in {"half a document", "a broken body"}
    ],
)
def test_watch_advises_what_explain_advises(api, memory, ask, answer):
    said = dict(ANSWERS[answer])
    api.answers(*filter(None, [said.pop("error", None)]), **said)

    told = failed(ask, api.url)

    assert advised(memory) == told.advice


@pytest.mark.usefixtures("telemetry")
def test_a_stream_that_ends_too_early_has_explain_s_advice(api, memory):
    api.answers(fault="unfinished")

    of_openai(api.url, stream=True)

    assert "status page" in advised(memory)


@pytest.mark.usefixtures("telemetry")
def test_a_stream_s_error_without_a_name_is_the_api_s(api, memory):
    body = b'data: {"choices": []}\n\ndata: {"error": {"message": "x"}}\n\n'
    api.answers(status=200, body=body, headers=EVENTS)

    failed(lambda url: of_openai(url, stream=True), api.url)

    assert "status page" in advised(memory)


@pytest.mark.usefixtures("telemetry")
def test_redirects_in_a_circle_are_no_trouble_of_the_network(api, memory):
    api.answers(status=307, redirect=f"{api.url}/models", times=50)

    with (
        openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()

    assert [one.has_failed for one in shown(memory)] == [True]
    assert advised(memory).startswith("Compare base URL")


@pytest.mark.usefixtures("telemetry")
def test_a_request_that_cannot_leave_has_the_advice_to_look_at_it(memory):
    told = failed(of_httpx, "ftp://api.assisters.dev/v1")

    assert "did not leave" in told.advice
    assert advised(memory) == told.advice
