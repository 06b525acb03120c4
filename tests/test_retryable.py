"""`retryable` and `retry_after_s` decide as the errors page has it, whoever raised the error."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from email.utils import formatdate

import assisters
import httpx
import openai
import pytest
import requests

from assisters_otel import catalog, explain, retry_after_s, retryable
from assisters_otel.testing import FakeApi, recorded

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "planted"}]}


@pytest.fixture(params=[True, False], ids=["watched", "unwatched"])
def server(request):
    with FakeApi() as api, recorded() if request.param else nullcontext():
        yield api


def of_openai(server):
    with openai.OpenAI(base_url=server.url, api_key="ask_k", max_retries=0) as client:
        client.chat.completions.create(**CHAT)


def of_httpx(server):
    httpx.post(f"{server.url}/chat/completions", json=CHAT, trust_env=False).raise_for_status()


def of_requests(server):
    requests.post(f"{server.url}/chat/completions", json=CHAT, timeout=10).raise_for_status()


def raised(call, server):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each client has its own
        call(server)
    return caught.value


@pytest.mark.sampled
@pytest.mark.parametrize("call", [of_openai, of_httpx, of_requests])
@pytest.mark.parametrize("row", catalog.ERRORS, ids=lambda row: row.code)
def test_a_retry_helps_against_three_of_fifteen_codes(server, call, row):
    server.answers(row.code)

    assert retryable(raised(call, server)) is row.retryable
    assert row.retryable is (
        row.code in {"rate_limit_exceeded", "model_overloaded", "internal_error"}
    )


def test_a_response_is_as_good_as_its_exception(server):
    server.answers("rate_limit_exceeded", retry_after=7)
    server.answers("tokens_exhausted", retry_after=7)

    passing = httpx.post(f"{server.url}/embeddings", json=CHAT, trust_env=False)
    exhausted = httpx.post(f"{server.url}/embeddings", json=CHAT, trust_env=False)
    fine = httpx.post(f"{server.url}/embeddings", json=CHAT, trust_env=False)

    assert (retryable(passing), retry_after_s(passing)) == (True, 7)
    assert (retryable(exhausted), retry_after_s(exhausted)) == (False, None)
    assert (retryable(fine), retry_after_s(fine)) == (False, None)


def test_a_date_is_seconds_from_the_answer_on(server):
    server.answers("rate_limit_exceeded", retry_after=formatdate(time.time() + 30, usegmt=True))

    assert 28 < retry_after_s(raised(of_httpx, server)) <= 30


def test_without_a_header_there_is_nothing_to_wait_for(server):
    server.answers("model_overloaded")

    error = raised(of_openai, server)

    assert (retryable(error), retry_after_s(error)) == (True, None)


def test_the_assisters_sdk_s_exceptions_decide_by_the_code_that_they_have_lost(
    assisters_telemetry,
):
    api, _ = assisters_telemetry
    with assisters.Assisters("ask_k", base_url=api.url, max_retries=1) as client:
        for code in ("tokens_exhausted", "rate_limit_exceeded"):
            api.answers(code)
            with pytest.raises(assisters.AssistersAPIError) as caught:
                client.chat.completions.create(**CHAT)
            assert retryable(caught.value) is (code == "rate_limit_exceeded")


@pytest.mark.parametrize("fault", ["drop", "garbage"])
def test_a_retry_helps_against_what_happens_on_the_way(server, fault):
    server.answers(fault=fault)

    assert retryable(raised(of_httpx, server)) is True


def test_an_exception_that_has_nothing_to_do_with_it_is_none_that_a_retry_helps():
    for error in (
        KeyError("x"),
        ZeroDivisionError(),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
    ):
        assert retryable(error) is False
        assert retry_after_s(error) is None


@pytest.mark.parametrize("function", [retryable, retry_after_s, explain])
@pytest.mark.parametrize("wrong", [None, "", 3, []], ids=repr)
def test_what_is_neither_is_said_at_once_by_the_function_that_was_called(function, wrong):
    says = rf"^{function.__name__}\(\) takes an exception, a response or an error code"

    with pytest.raises(ValueError, match=says):
        function(wrong)


def test_it_says_what_explain_says(server):
    server.answers("rate_limit_exceeded", retry_after=2)

    error = raised(of_openai, server)
    told = explain(error)

    assert (retryable(error), retry_after_s(error)) == (told.retryable, told.retry_after_s)


def raises(*_: object) -> None:
    raise LookupError("of the app's own")


def hostile(base=Exception, **members):
    """An exception of the app's of which something raises. `retryable` is asked of each one."""
    return type("AppError", (base,), members)("no")


HOSTILE = {
    "any attribute": hostile(__getattr__=raises),
    "its text": hostile(__str__=raises, __repr__=raises),
    "an equal type": hostile(type=type("Odd", (), {"__eq__": raises, "__hash__": None})()),
    "headers": hostile(
        openai.OpenAIError,  # the status of any other exception is another server's
        status_code=429,
        headers=type("Headers", (dict,), {"get": raises})(retry_after="1"),
    ),
    **{
        f"the property {name}": hostile(**{name: property(raises)})
        for name in (
            *("response", "request", "status", "status_code", "headers", "type", "code"),
            *("args", "reason"),
        )
    },
    "no module": hostile(__module__=None),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_exception_of_the_app_s_that_raises_itself_is_answered(what):
    error = HOSTILE[what]

    assert retryable(error) is (what == "headers")
    assert retry_after_s(error) is None
    assert str(explain(error))


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.LocalProtocolError, httpx.ProxyError])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_client_s_exception_that_comes_from_one_that_raises_itself_is_answered(what, kind):
    error = kind("x")
    error.__cause__ = HOSTILE[what]

    assert retryable(error) is (kind is not httpx.LocalProtocolError)
    assert str(explain(error))
