"""Whose fault it is that there was no answer is told from its cause, for every client and sink."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from contextlib import suppress

import aiohttp
import assisters
import httpx
import httpx2
import openai
import pytest
import requests
import trustme

import assisters_otel
from assisters_otel import causes

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hello"}]}
ERRORS = "assisters.client.errors"


@pytest.fixture(scope="module")
def untrusted():
    """A server whose certificate is signed by nobody whom anyone trusts."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(tls)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with suppress(OSError):
                tls.wrap_socket(connection, server_side=True).close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"https://localhost:{listener.getsockname()[1]}/v1"
    listener.close()


async def _with_httpx(module, url):
    async with module.AsyncClient(trust_env=False) as client:
        await client.get(f"{url}/models")


async def _with_aiohttp(url):
    async with aiohttp.ClientSession() as session, session.get(f"{url}/models"):
        pass


def _with_requests(url, **options):
    with requests.Session() as session:
        session.trust_env = False
        session.get(f"{url}/models", **options)


def _with_openai(url):
    with openai.OpenAI(api_key="ask_k", base_url=url, max_retries=0) as client:
        client.chat.completions.create(**CHAT)


def _with_assisters(url):
    with assisters.Assisters(api_key="ask_k", base_url=url) as client:
        client.chat.completions.create(**CHAT)


WAYS = {
    "httpx": lambda url: httpx.get(f"{url}/models", trust_env=False),
    "httpx2": lambda url: httpx2.get(f"{url}/models", trust_env=False),
    "httpx-asyncio": lambda url: asyncio.run(_with_httpx(httpx, url)),
    "httpx2-asyncio": lambda url: asyncio.run(_with_httpx(httpx2, url)),
    "requests": _with_requests,
    "aiohttp": lambda url: asyncio.run(_with_aiohttp(url)),
    "openai": _with_openai,
    "assisters": _with_assisters,
}


def met(ask, url, memory):
    """Ask, watched; give what was raised."""
    with (
        assisters_otel.init(
            hosts=[url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ),
        pytest.raises(Exception) as raised,  # noqa: PT011 - each client's own
    ):
        ask(url)
    return raised.value


def see(memory, caplog, *, retryable, line):
    """Look at what span, metric and log say of an attempt without an answer."""
    assert [s.attributes["assisters.error.retryable"] for s in memory.attempts()] == [retryable]
    assert memory.point(ERRORS)["assisters.error.retryable"] is retryable
    (said,) = (one.getMessage() for one in caplog.records if one.name == "assisters_otel")
    assert re.search(line, said)
    assert ("no retry helps" in said) is not retryable


@pytest.mark.parametrize("way", WAYS)
def test_an_untrusted_certificate_is_no_trouble_that_a_retry_helps(untrusted, memory, caplog, way):
    error = met(WAYS[way], untrusted, memory)

    see(memory, caplog, retryable=False, line="gave no answer .*: the certificate is not trusted")
    told = assisters_otel.explain(error)
    assert told.retryable is False
    assert told.side == "the way there"
    assert "the certificate is not trusted" in told.what
    assert "SSL_CERT_FILE" in told.advice
    assert "status page" not in str(told)


@pytest.mark.parametrize("way", WAYS)
def test_explain_finds_an_untrusted_certificate_that_nobody_has_watched(untrusted, way):
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each client's own
        WAYS[way](untrusted)

    told = assisters_otel.explain(raised.value)
    assert told.retryable is False
    assert "SSL_CERT_FILE" in told.advice


def test_a_bundle_of_certificates_that_is_not_there_is_named(memory, caplog):
    def ask(url):
        _with_requests(url, verify="/nowhere/bundle.pem")

    error = met(ask, "https://127.0.0.1:9/v1", memory)

    line = "was not asked .*a file for TLS is not there: /nowhere/bundle.pem"
    see(memory, caplog, retryable=False, line=line)
    told = assisters_otel.explain(error)
    assert told.side == "your app"
    assert "/nowhere/bundle.pem" in told.what
    assert "REQUESTS_CA_BUNDLE" in told.advice


def _exhausted(module):
    async def asynchronous(url):
        limits = module.Limits(max_connections=1)
        timeout = module.Timeout(30, pool=0.1)
        async with (
            module.AsyncClient(limits=limits, timeout=timeout, trust_env=False) as client,
            client.stream("GET", f"{url}/models"),
        ):
            await client.get(f"{url}/models")

    def synchronous(url):
        limits, timeout = module.Limits(max_connections=1), module.Timeout(30, pool=0.1)
        with (
            module.Client(limits=limits, timeout=timeout, trust_env=False) as client,
            client.stream("GET", f"{url}/models"),
        ):
            client.get(f"{url}/models")

    return synchronous, lambda url: asyncio.run(asynchronous(url))


def _exhausted_openai(url):
    limits = httpx.Limits(max_connections=1)
    timeout = httpx.Timeout(30, pool=0.1)
    with httpx.Client(limits=limits, timeout=timeout, trust_env=False) as http:
        client = openai.OpenAI(api_key="ask_k", base_url=url, max_retries=0, http_client=http)
        with http.stream("GET", f"{url}/models"):
            client.with_options(timeout=timeout).chat.completions.create(**CHAT)


POOLS = [*_exhausted(httpx), *_exhausted(httpx2), _exhausted_openai]


@pytest.mark.parametrize("ask", POOLS, ids=["httpx", "httpx-a", "httpx2", "httpx2-a", "openai"])
def test_a_pool_of_the_app_s_own_that_is_full_is_not_the_api_s_silence(api, memory, caplog, ask):
    error = met(ask, api.url, memory)

    (said,) = (one.getMessage() for one in caplog.records if one.name == "assisters_otel")
    assert "was not asked (PoolTimeout: no connection of the client's own pool" in said
    assert "a retry can help" in said
    told = assisters_otel.explain(error)
    assert told.side == "your app"
    assert "pool" in told.what.replace("PoolTimeout", "")
    assert "limit of connections" in told.advice
    assert "name resolution" not in str(told)
    assert memory.point(ERRORS)["error.type"] == "PoolTimeout"


def test_a_ring_of_causes_is_looked_at_once():
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first

    assert causes.of(first) is None
