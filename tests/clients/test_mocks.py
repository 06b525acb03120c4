"""The methods that are wrapped, called with what tests of an app put in place of the real thing.

A mock is no request. The methods do with it what they do without us, and `strict` raises nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import warnings
from operator import attrgetter
from unittest.mock import Mock, NonCallableMock, create_autospec

import aiohttp
import httpx
import pytest
import requests
from aiohttp.client_reqrep import ClientRequest
from opentelemetry.sdk.trace import SpanProcessor
from responses import RequestsMock
from urllib3 import Retry

import assisters_otel

REQUESTS = {
    "httpx": httpx.Request,
    "requests": requests.PreparedRequest,
    "aiohttp": ClientRequest,
    "openai": httpx.Request,
    "assisters": httpx.Request,
}
METHODS = (
    "httpx:HTTPTransport.handle_request",
    "httpx:AsyncHTTPTransport.handle_async_request",
    "requests:Session.send",
    "requests:adapters.HTTPAdapter.send",
    "requests:adapters.Retry.increment",
    "aiohttp:ClientSession._request",
    "aiohttp:connector.BaseConnector.connect",
    "aiohttp:client_reqrep.ClientRequest.send",
    "aiohttp:client_reqrep.ClientResponse.start",
    "aiohttp:client_reqrep.ClientResponse.raise_for_status",
    "openai:_base_client.SyncAPIClient.request",
    "openai:_base_client.AsyncAPIClient.request",
    "openai:_legacy_response.LegacyAPIResponse.parse",
    "openai:_response.APIResponse.parse",
    "openai:_response.AsyncAPIResponse.parse",
    "openai:_response.APIResponse.close",
    "openai:_response.AsyncAPIResponse.close",
    "assisters:Assisters._request",
    "assisters:Assisters._request_bytes",
    "assisters:Assisters._stream",
)


class Refusing:
    """An object that has nothing, and says so in its own way."""

    def __getattr__(self, name):
        raise LookupError(name)


MOCKS = {
    "a mock": lambda _: Mock(name="mock"),
    "a mock of the class": lambda client: create_autospec(REQUESTS[client], instance=True),
    "a mock with nothing in it": lambda _: NonCallableMock(spec=[], name="mock"),
    "an object that refuses": lambda _: Refusing(),
    "None": lambda _: None,
}


def told(method, client, mock):
    """What a method does with mocks: the name of the class of what it returns or raises."""
    _, path = method.split(":")
    called = attrgetter(path)(importlib.import_module(client))
    itself, *asked = inspect.signature(called).parameters.values()
    needed = [one for one in asked if one.default is one.empty or one.name == "response"]
    named = {one.name: MOCKS[mock](client) for one in needed if one.kind is one.KEYWORD_ONLY}
    arguments = [MOCKS[mock](client) for one in needed if one.kind is one.POSITIONAL_OR_KEYWORD]
    inspect.signature(called).bind(itself, *arguments, **named)
    try:
        result = called(Mock(name="self"), *arguments, **named)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
    except Exception as error:  # noqa: BLE001 - it is compared
        return type(error).__qualname__
    return type(result).__qualname__  # a mock has a class of its own


@pytest.mark.sampled
@pytest.mark.parametrize("mock", MOCKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_mock_is_treated_as_without_us(api, memory, method, mock):
    client = method.split(":")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = told(method, client, mock)
        with assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ):
            with_us = told(method, client, mock)

    assert with_us == alone
    assert memory.spans() == []


@pytest.mark.usefixtures("telemetry")
def test_a_connection_that_is_made_without_a_loop_is_no_attempt(api, memory):
    """Tests make it so, and hand it to one."""
    started = Started()
    memory.tracer_provider.add_span_processor(started)
    loop = asyncio.new_event_loop()

    async def begun():
        session = aiohttp.ClientSession()
        return session, ClientRequest("GET", session._build_url(api.url), loop=loop)

    session, request = loop.run_until_complete(begun())
    session.connector.connect(request, [], aiohttp.ClientTimeout(1)).close()
    connecting = session.connector.connect(request, [], aiohttp.ClientTimeout(1))
    loop.run_until_complete(connecting).close()
    loop.run_until_complete(session.close())
    loop.close()

    assert started.spans == []


@pytest.mark.usefixtures("telemetry")
def test_a_mock_of_a_request_is_connected_for_as_without_us():
    """aiohttp's own tests do so. Its URL is one of a class, and cannot be read."""
    mock = create_autospec(ClientRequest, instance=True)

    async def main():
        async with aiohttp.ClientSession() as session:
            session.connector.connect(mock, [], aiohttp.ClientTimeout(1)).close()

    asyncio.run(main())


@pytest.mark.parametrize("how", ["whole", "streamed", "retried"])
def test_an_answer_that_responses_makes_up_is_told_of_if_we_came_later(memory, how):
    """Its answers have no connection, of which a failed one's body could be read ahead."""
    url = "https://api.assisters.dev/v1/models"
    error = {"error": {"type": "rate_limit_error", "code": "rate_limit_exceeded"}}
    with RequestsMock() as mock, requests.Session() as session:
        mock.get(url, status=429, json=error)
        mock.get(url, json={"data": []})
        if how == "retried":
            retry = Retry(1, status_forcelist=[429], backoff_factor=0)
            session.mount("https://", requests.adapters.HTTPAdapter(max_retries=retry))
        with assisters_otel.init(
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ):
            refused = session.get(url, stream=how == "streamed")
            if how != "retried":
                assert refused.json() == error
                refused = session.get(url)
            assert refused.json() == {"data": []}

    counted = memory.point("assisters.client.errors")
    assert counted["value"] == 1
    assert counted["http.response.status_code"] == 429
    assert counted.get("error.code") == ("rate_limit_exceeded" if how == "whole" else None)


class Started(SpanProcessor):
    """Notes the spans that were started, ended or not."""

    def __init__(self):
        self.spans = []

    def on_start(self, span, parent_context=None):  # noqa: ARG002 - the SDK's
        self.spans.append(span)
