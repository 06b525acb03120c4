"""Whose fault it is that there was no answer is told from its cause, for every client and sink."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

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
from memory import watching
from watched import advised

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hello"}]}
ERRORS = "assisters.client.errors"


@pytest.fixture(scope="module")
def untrusted():
    """A server whose certificate is signed by nobody whom anyone trusts."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(tls)

    def refuse(connection):
        tls.wrap_socket(connection, server_side=True).close()

    with listening(refuse) as port:
        yield f"https://localhost:{port}/v1"


@contextmanager
def listening(answer):
    """Accept connections one after the other, give each to *answer*, and close it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with suppress(OSError), connection:
                answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield listener.getsockname()[1]


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
        watching(url, memory),
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
    assert advised(memory) == told.advice


CONTRADICTED = b"HTTP/1.1 429 No\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"


@pytest.mark.parametrize("way", WAYS)
def test_lengths_that_contradict_each_other_are_trouble_that_a_retry_helps(memory, caplog, way):
    """No client takes such an answer. That of requests was taken for a header of the app's."""

    def answer(connection):
        connection.recv(65536)
        connection.sendall(CONTRADICTED)

    with listening(answer) as port:
        met(WAYS[way], f"http://127.0.0.1:{port}/v1", memory)

    see(memory, caplog, retryable=True, line="gave no answer|answered 429")


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
    assert advised(memory) == told.advice


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
    assert advised(memory) == told.advice


def test_a_ring_of_causes_is_looked_at_once():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first

    assert causes.of(first) is None


@pytest.fixture
def proxy():
    """A proxy that refuses to connect, as a SOCKS proxy puts it. Set its answer as `status`."""

    class Proxy:
        status = 407

    def refuse(connection):
        connection.recv(65536)
        answer = f"HTTP/1.1 {Proxy.status} not allowed by ruleset\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(answer.encode())

    with listening(refuse) as port:
        Proxy.url = f"http://user:planted-word@127.0.0.1:{port}"
        yield Proxy


API = "https://api.assisters.dev/v1"


async def _with_httpx_by(module, proxy):
    async with module.AsyncClient(proxy=proxy) as client:
        await client.get(f"{API}/models")


async def _with_aiohttp_by(proxy):
    async with aiohttp.ClientSession() as session, session.get(f"{API}/models", proxy=proxy):
        pass


def _with_openai_by(proxy):
    http_client = openai.DefaultHttpxClient(proxy=proxy)
    with openai.OpenAI(
        api_key="ask_k", base_url=API, max_retries=0, http_client=http_client
    ) as client:
        client.chat.completions.create(**CHAT)


BY_PROXY = {
    "httpx": lambda proxy: httpx.get(f"{API}/models", proxy=proxy),
    "httpx2": lambda proxy: httpx2.get(f"{API}/models", proxy=proxy),
    "httpx-asyncio": lambda proxy: asyncio.run(_with_httpx_by(httpx, proxy)),
    "httpx2-asyncio": lambda proxy: asyncio.run(_with_httpx_by(httpx2, proxy)),
    "requests": lambda proxy: _with_requests(API, proxies={"https": proxy}),
    "aiohttp": lambda proxy: asyncio.run(_with_aiohttp_by(proxy)),
    "openai": _with_openai_by,
}


@pytest.mark.parametrize(
    ("status", "helps"), [(403, False), (407, False), (429, True), (502, True), (503, True)]
)
@pytest.mark.parametrize("way", BY_PROXY)
def test_a_retry_helps_against_a_proxy_s_refusal_only_as_its_status_says(
    proxy, memory, caplog, way, status, helps
):
    proxy.status = status

    error = met(lambda _: BY_PROXY[way](proxy.url), API, memory)

    see(memory, caplog, retryable=helps, line=f"gave no answer .*: the proxy answered {status}")
    for told in (assisters_otel.explain(error), assisters_otel.explain(_copy_of(error))):
        assert told.retryable is helps
        assert told.side == "the way there"
        assert f"the proxy answered {status}" in told.what
        assert "HTTPS_PROXY" in told.advice
        assert "planted-word" not in str(told)
        assert advised(memory) == told.advice


def _copy_of(error):
    """Return the exception's like, of which nothing is recorded."""
    like = type(error).__new__(type(error))
    like.args, like.__cause__ = error.args, error.__cause__
    vars(like).update({k: v for k, v in vars(error).items() if not k.startswith("_")})
    return like


@pytest.mark.parametrize("send", [httpx.get, requests.get])
def test_a_407_is_an_answer_of_a_proxy_and_not_of_the_api(api, memory, send):
    api.answers(status=407, body="no")

    with assisters_otel.init(hosts=[api.url], tracer_provider=memory.tracer_provider, strict=True):
        response = send(f"{api.url}/models")

    told = assisters_otel.explain(response)
    assert told.what == "A proxy, and not the API, answered 407."
    assert told.side == "the way there"
    assert "HTTPS_PROXY" in told.advice
    assert told.retryable is False


@pytest.mark.parametrize("way", WAYS)
def test_what_the_app_was_handling_is_not_the_cause(untrusted, memory, way):
    def ask(url):
        try:
            WAYS[way](untrusted)
        except Exception:  # noqa: BLE001 - each client's own
            WAYS[way](url)  # the fallback

    met(ask, "http://127.0.0.1:9/v1", memory)

    (refused,) = memory.attempts()
    assert refused.attributes["assisters.error.retryable"] is True
    assert memory.point(ERRORS)["assisters.error.retryable"] is True
