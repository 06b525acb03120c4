"""What a client's connection fails with, in HTTP/2, in TLS and at a SOCKS proxy.

Packages that clients are made of raise exceptions of their own. Some reach the app as they are.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import aiohttp
import httpx
import httpx2
import openai
import pytest
import requests
import trustme
from aiohttp_socks import ProxyConnector
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import PingAckReceived, RequestReceived
from h2.exceptions import ProtocolError
from hpack import Encoder
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame

import assisters_otel
from memory import watching
from watched import advised

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hello"}]}
ERRORS = "assisters.client.errors"
NOWHERE = "http://127.0.0.1:9/v1"


@contextmanager
def listening(answer):
    """Give each connection to *answer*, in a thread of its own, and then close it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def converse(connection):
        # An exporter of another test may still look for its collector at this port.
        with suppress(OSError, ProtocolError), connection:
            answer(connection)

    def serve():
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=converse, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield listener.getsockname()[1]


LEFT = "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"


@pytest.fixture
def left_sockets():
    """Collect what the clients and asyncio leave open, with us or without: it warns."""
    yield
    gc.collect()


def see(memory, caplog, error, *, retryable):
    """Look at what everything that tells of an attempt without an answer says of it."""
    attempts = memory.attempts()  # aiohttp itself sends again on some
    assert {one.attributes["assisters.error.retryable"] for one in attempts} == {retryable}
    assert {one["assisters.error.retryable"] for one in memory.points(ERRORS)} == {retryable}
    said = [one.getMessage() for one in caplog.records if one.name == "assisters_otel"]
    assert said
    assert {("no retry helps" in one) is not retryable for one in said} == {True}
    told = assisters_otel.explain(error)
    assert told.retryable is assisters_otel.retryable(error) is retryable
    assert advised(memory) == told.advice
    return told


# -- HTTP/2 -----------------------------------------------------------------------------------


def speaking_http2(first, second=b""):
    """Answer a request with frames, and with further ones when the client has read the first."""

    def answer(connection):
        state, stream_id = H2Connection(H2Configuration(client_side=False)), 1
        state.initiate_connection()
        connection.sendall(state.data_to_send())
        while data := connection.recv(65536):
            for event in state.receive_data(data):
                if isinstance(event, RequestReceived):
                    stream_id = event.stream_id
                    connection.sendall(state.data_to_send() + first(stream_id))
                    connection.sendall(PingFrame(0, b"has read").serialize() if second else b"")
                elif isinstance(event, PingAckReceived):
                    connection.sendall(second(stream_id))

    return answer


def headers(*more, status="200", flags=()):
    block = Encoder().encode([(":status", status), *more])
    return lambda at: HeadersFrame(at, block, flags=["END_HEADERS", *flags]).serialize()


BREACHES = {
    "headers that cannot be decoded": lambda at: HeadersFrame(
        at, b"\xff" * 5, flags=["END_HEADERS"]
    ).serialize(),
    "another length": lambda at: (
        headers(("content-length", "5"))(at) + DataFrame(at, b"123456").serialize()
    ),
    "a length that is none": headers(("content-length", "many"), flags=["END_STREAM"]),
    "data of no stream": lambda at: DataFrame(at + 2, b"x").serialize(),
    "data before the headers": lambda at: DataFrame(at, b"x").serialize(),
}
"""What a peer breaks HTTP/2 by. httpx calls it a LocalProtocolError."""


def _sync(module, url, **options):
    with module.Client(http1=False, http2=True, trust_env=False) as client:
        client.post(f"{url}/models", **options)


async def _async(module, url, **options):
    async with module.AsyncClient(http1=False, http2=True, trust_env=False) as client:
        await client.post(f"{url}/models", **options)


def _openai(url, headers=None):
    with (
        openai.DefaultHttpxClient(http1=False, http2=True, trust_env=False) as http,
        openai.OpenAI(api_key="ask_k", base_url=url, max_retries=0, http_client=http) as client,
    ):
        client.chat.completions.create(**CHAT, extra_headers=headers)


HTTP2 = {
    "httpx": lambda *of, **more: _sync(httpx, *of, **more),
    "httpx2": lambda *of, **more: _sync(httpx2, *of, **more),
    "httpx-asyncio": lambda *of, **more: asyncio.run(_async(httpx, *of, **more)),
    "httpx2-asyncio": lambda *of, **more: asyncio.run(_async(httpx2, *of, **more)),
    "openai": _openai,
}


@pytest.mark.parametrize("breach", BREACHES)
@pytest.mark.parametrize("way", HTTP2)
def test_what_a_peer_breaks_http_2_by_is_trouble_that_a_retry_helps(memory, caplog, way, breach):
    with (
        listening(speaking_http2(BREACHES[breach])) as port,
        watching(url := f"http://127.0.0.1:{port}/v1", memory),
        pytest.raises(Exception) as raised,  # noqa: PT011 - each client's own
    ):
        HTTP2[way](url)

    told = see(memory, caplog, raised.value, retryable=True)
    assert told.side == "the way there"


@pytest.mark.parametrize("breach", BREACHES)
@pytest.mark.parametrize("way", HTTP2)
def test_explain_knows_whose_breach_of_http_2_it_is_that_nobody_has_watched(way, breach):
    with (
        listening(speaking_http2(BREACHES[breach])) as port,
        pytest.raises(Exception) as raised,  # noqa: PT011 - each client's own
    ):
        HTTP2[way](f"http://127.0.0.1:{port}/v1")

    assert assisters_otel.retryable(raised.value) is True


@pytest.mark.parametrize("way", HTTP2)
def test_a_header_of_the_app_s_that_http_2_forbids_is_the_app_s_mistake(memory, caplog, way):
    with (
        listening(speaking_http2(headers(flags=["END_STREAM"]))) as port,
        watching(url := f"http://127.0.0.1:{port}/v1", memory),
        pytest.raises(Exception, match=r"TE header|Connection error") as raised,
    ):
        HTTP2[way](url, headers={"te": "gzip"})

    told = see(memory, caplog, raised.value, retryable=False)
    assert told.side == "your app"


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_a_stream_that_breaks_http_2_has_failed_and_a_retry_helps(memory, module):
    """Here the client does not make the exception its own."""
    begin = headers(("content-type", "text/event-stream"), ("content-length", "5"))
    too_long = b"data: {}\n\n"
    with (
        listening(speaking_http2(begin, lambda at: DataFrame(at, too_long).serialize())) as port,
        watching(url := f"http://127.0.0.1:{port}/v1", memory),
        module.Client(http1=False, http2=True, trust_env=False) as client,
        client.stream("POST", f"{url}/chat/completions") as response,
        pytest.raises(ProtocolError) as raised,
    ):
        response.read()

    (stream,) = memory.calls()
    assert stream.attributes["error.type"] == "InvalidBodyLengthError"
    assert stream.attributes["assisters.error.retryable"] is True
    assert memory.point(ERRORS)["assisters.error.retryable"] is True
    assert assisters_otel.explain(raised.value).retryable is True


# -- a SOCKS proxy ----------------------------------------------------------------------------

NO_METHOD, METHOD, PASSWORD = b"\x05\xff", b"\x05\x00", b"\x05\x02"


def hang_up(_):
    """Answer nothing."""


def speak_http(connection):
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def refuse_every_method(connection):
    connection.sendall(NO_METHOD)


def refuse_the_password(connection):
    connection.sendall(PASSWORD)
    connection.recv(300)
    connection.sendall(b"\x01\x01")


def refusing(code):
    def reply(connection):
        connection.sendall(METHOD)
        connection.recv(300)
        connection.sendall(bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0]))

    return reply


REFUSALS = {
    "hangs up": (hang_up, None),
    "speaks HTTP": (speak_http, None),
    "refuses the password": (refuse_the_password, "refused the user name or the password"),
    "refuses each method": (refuse_every_method, "authenticate in different ways"),
    "fails": (refusing(1), None),
    "has a rule": (refusing(2), "does not connect to this host"),
    "has no network": (refusing(3), None),
    "reaches no host": (refusing(4), None),
    "is refused": (refusing(5), None),
    "runs out of hops": (refusing(6), None),
    "knows no such command": (refusing(7), "does not connect to this host"),
    "knows no such address": (refusing(8), "does not connect to this host"),
}
"""What a SOCKS proxy does, and the cause for which no retry helps."""


async def _async_by(module, proxy):
    async with module.AsyncClient(proxy=proxy) as client:
        await client.get(f"{NOWHERE}/models")


async def _aiohttp_by(proxy):
    async with (
        aiohttp.ClientSession(connector=ProxyConnector.from_url(proxy)) as session,
        session.get(f"{NOWHERE}/models"),
    ):
        pass


def _requests_by(proxy):
    with requests.Session() as session:
        session.trust_env = False
        session.get(f"{NOWHERE}/models", proxies={"http": proxy})


def _openai_by(proxy):
    with (
        openai.DefaultHttpxClient(proxy=proxy) as http,
        openai.OpenAI(api_key="ask_k", base_url=NOWHERE, max_retries=0, http_client=http) as client,
    ):
        client.chat.completions.create(**CHAT)


BY_SOCKS = {
    "httpx": lambda proxy: httpx.get(f"{NOWHERE}/models", proxy=proxy),
    "httpx2": lambda proxy: httpx2.get(f"{NOWHERE}/models", proxy=proxy),
    "httpx-asyncio": lambda proxy: asyncio.run(_async_by(httpx, proxy)),
    "httpx2-asyncio": lambda proxy: asyncio.run(_async_by(httpx2, proxy)),
    "requests": _requests_by,
    "aiohttp": lambda proxy: asyncio.run(_aiohttp_by(proxy)),
    "openai": _openai_by,
}


@pytest.mark.usefixtures("left_sockets")
@pytest.mark.filterwarnings(*LEFT)
@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("way", BY_SOCKS)
def test_a_retry_helps_against_a_socks_proxy_unless_it_refuses_for_good(
    memory, caplog, way, refusal
):
    does, cause = REFUSALS[refusal]

    def answer(connection):
        connection.recv(300)
        does(connection)
        while connection.recv(300):
            pass

    user = "user:planted-word@" if does is refuse_the_password else ""
    with (
        listening(answer if does is not hang_up else lambda connection: connection.recv(300)) as at,
        watching(NOWHERE, memory),
        pytest.raises(Exception) as raised,  # noqa: PT011 - each client's own
    ):
        BY_SOCKS[way](f"socks5://{user}127.0.0.1:{at}")

    told = see(memory, caplog, raised.value, retryable=cause is None)
    assert told.side == "the way there"
    assert "planted-word" not in str(told) + caplog.text
    if cause is not None:
        assert cause in told.what
        assert cause in caplog.text
        assert "HTTPS_PROXY" in told.advice


@pytest.mark.parametrize("way", BY_SOCKS)
def test_a_socks_proxy_that_is_down_is_trouble_that_a_retry_helps(memory, caplog, way):
    with (
        watching(NOWHERE, memory),
        pytest.raises(Exception) as raised,  # noqa: PT011 - each client's own
    ):
        BY_SOCKS[way]("socks5://127.0.0.1:9")

    told = see(memory, caplog, raised.value, retryable=True)
    assert told.side == "the way there"


# -- TLS --------------------------------------------------------------------------------------

ALERTS = {
    "handshake_failure": (40, False),
    "bad_certificate": (42, False),
    "unsupported_certificate": (43, False),
    "certificate_revoked": (44, False),
    "certificate_expired": (45, False),
    "certificate_unknown": (46, False),
    "unknown_ca": (48, False),
    "access_denied": (49, False),
    "protocol_version": (70, False),
    "insufficient_security": (71, False),
    "unrecognized_name": (112, False),
    "certificate_required": (116, False),
    "no_application_protocol": (120, False),
    "internal_error": (80, True),
    "bad_record_mac": (20, True),
}
"""The alerts of TLS with their numbers, and whether a retry helps. Source: RFC 8446, 6."""


def _asked(module, url, path="/models", **options):
    with module.Client(trust_env=False, **options) as client:
        client.get(f"{url}{path}")


async def _asked_async(module, url, path="/models", **options):
    async with module.AsyncClient(trust_env=False, **options) as client:
        await client.get(f"{url}{path}")


def _asked_requests(url, path="/models", **options):
    with requests.Session() as session:
        session.trust_env = False
        session.get(f"{url}{path}", **options)


async def _asked_aiohttp(url, path="/models", **options):
    async with aiohttp.ClientSession() as session, session.get(f"{url}{path}", **options):
        pass


BY_TLS = {
    "httpx": lambda *of, **more: _asked(httpx, *of, **more),
    "httpx2": lambda *of, **more: _asked(httpx2, *of, **more),
    "httpx-asyncio": lambda *of, **more: asyncio.run(_asked_async(httpx, *of, **more)),
    "httpx2-asyncio": lambda *of, **more: asyncio.run(_asked_async(httpx2, *of, **more)),
    "requests": _asked_requests,
    "aiohttp": lambda *of, **more: asyncio.run(_asked_aiohttp(*of, **more)),
}


@pytest.mark.usefixtures("left_sockets")
@pytest.mark.filterwarnings(*LEFT)
@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.parametrize("way", BY_TLS)
def test_a_retry_helps_against_an_alert_of_tls_unless_settings_do_not_agree(
    memory, caplog, way, alert
):
    number, helps = ALERTS[alert]

    def refuse(connection):
        connection.recv(65536)
        connection.sendall(bytes([21, 3, 3, 0, 2, 2, number]))
        connection.recv(65536)

    with (
        listening(refuse) as port,
        watching(url := f"https://127.0.0.1:{port}/v1", memory),
        pytest.raises(Exception) as raised,  # noqa: PT011 - each client's own
    ):
        BY_TLS[way](url)

    told = see(memory, caplog, raised.value, retryable=helps)
    assert told.side == "the way there"
    assert ("refused the TLS handshake" in told.what) is not helps
    assert ("own certificate and key" in told.advice) is not helps


@pytest.mark.usefixtures("left_sockets")
@pytest.mark.filterwarnings(*LEFT)
@pytest.mark.parametrize(
    "prompt", ["certificate verify failed", *(f"alert {name}" for name in ALERTS)]
)
@pytest.mark.parametrize("way", BY_TLS)
def test_what_a_prompt_says_is_not_the_cause(memory, caplog, way, prompt):
    """requests quotes the URL in what it raises."""
    path = f"/agent/stream?message={prompt.replace(' ', '+').replace('_', '+')}"
    with (
        listening(lambda connection: connection.recv(65536)) as port,
        watching(url := f"https://127.0.0.1:{port}/v1", memory),
        pytest.raises(Exception) as raised,  # noqa: PT011 - each client's own
    ):
        BY_TLS[way](url, path)

    told = see(memory, caplog, raised.value, retryable=True)
    assert "TLS" not in told.what


def wanting_a_certificate(context):
    """Speak TLS, and read what the client sends after it was refused, as no reset may hide that."""

    def answer(connection):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls, is_refused = context.wrap_bio(incoming, outgoing, server_side=True), False
        while data := connection.recv(65536):
            incoming.write(data)
            if not is_refused:
                with suppress(ssl.SSLWantReadError):
                    try:
                        tls.do_handshake()
                    except ssl.SSLWantReadError:
                        raise
                    except ssl.SSLError:
                        is_refused = True
            connection.sendall(outgoing.read())

    return answer


@pytest.mark.usefixtures("left_sockets")
@pytest.mark.filterwarnings(*LEFT)
@pytest.mark.parametrize("way", BY_TLS)
def test_a_client_certificate_that_is_missing_is_no_trouble_that_a_retry_helps(
    memory, caplog, tmp_path, way
):
    """In TLS 1.3 the client learns it after its own handshake, when it reads the answer."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "bundle.pem"
    authority.cert_pem.write_to_path(bundle)
    trusting = ssl.create_default_context(cafile=bundle)
    options = {"aiohttp": {"ssl": trusting}, "requests": {"verify": str(bundle)}}

    with (
        listening(wanting_a_certificate(context)) as port,
        watching(url := f"https://127.0.0.1:{port}/v1", memory),
        pytest.raises(Exception) as raised,  # noqa: PT011 - each client's own
    ):
        BY_TLS[way](url, **options.get(way, {"verify": trusting}))

    told = see(memory, caplog, raised.value, retryable=False)
    assert told.side == "the way there"
    assert "a client certificate" in told.what
