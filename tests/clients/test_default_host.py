"""The API where every user has it: by its name, over TLS, without a port.

The names lead to loopback, and the ports to servers there, below whatever the clients look up and
connect with. All above that is real: names, URLs, TLS and its certificates.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import NamedTuple

import pytest
import trustme
import uvicorn

import assisters_otel
from assisters_otel.testing import FakeApi
from streamers import STREAMERS, UNSTREAMED

DURATION = "assisters.client.request.duration"
ERRORS = "assisters.client.errors"
RETRIES = "assisters.client.retries"
CALL = "gen_ai.client.operation.duration"
CALL_ATTEMPTS = "assisters.client.call.attempts"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
LIMIT = "assisters.client.ratelimit.requests.limit"
BODY = {"model": "assisters-embed-v1", "input": "hello"}
STREAM = {
    "status": 200,
    "body": [b'data: {"choices": []}\n\n', b"data: [DONE]\n\n"],
    "content_type": "text/event-stream",
}

NAMES = ("api.assisters.dev", "assisters.dev", "gateway.example")
ADDRESS = "192.0.2.1"  # nobody's: it is for documentation (RFC 5737)

# The base URL, and the port that the contract says.
PLACES = {
    "https://api.assisters.dev/v1": 443,
    "https://api.assisters.dev:443/v1": 443,
    "https://api.assisters.dev:444/v1": 444,
    "http://api.assisters.dev/v1": 80,
    "https://assisters.dev/api/v1": 443,
}


class Secure(NamedTuple):
    """The fake API over TLS.

    Attributes:
        port: Where it listens.
        cafile: The certificate that is to be trusted.
    """

    port: int
    cafile: str


@pytest.fixture(scope="module")
def both():
    """The fake API that has a door with TLS as well."""
    with FakeApi() as api:
        yield api


@pytest.fixture
def api(both):
    both.reset()
    return both


@pytest.fixture(scope="module")
def secure(both, tmp_path_factory):
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = authority.issue_cert(*NAMES)
    own.private_key_and_cert_chain_pem.write_to_path(folder / "own.pem")
    config = uvicorn.Config(
        both.app, lifespan="off", ws="none", log_config=None, ssl_certfile=folder / "own.pem"
    )
    running = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        while not running.started and thread.is_alive():
            time.sleep(0.01)
        yield Secure(listener.getsockname()[1], str(folder / "ca.pem"))
        running.should_exit = True
        thread.join()


@pytest.fixture(autouse=True)
def _named(api, secure, monkeypatch):
    """Lead each of the names to the fake API, by any port."""
    look_up, connect = socket.getaddrinfo, socket.socket.connect
    ports = {80: api.port, 443: secure.port, 444: secure.port}

    def getaddrinfo(host, port, *args, **options):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in NAMES:
            return look_up(host, port, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ADDRESS, port))]

    def connected(one, address):
        if address[0] == ADDRESS:
            address = "127.0.0.1", ports[address[1]]
        return connect(one, address)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setenv("SSL_CERT_FILE", secure.cafile)  # for the SDKs


def watching(memory, **options):
    return assisters_otel.init(
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
        **options,
    )


@pytest.fixture
def _watched(memory):
    """As every user does it: no word of hosts."""
    with watching(memory):
        yield


def send(anyone, method, url, secure, **options):
    trusting = ssl.create_default_context(cafile=secure.cafile)
    if anyone.name == "requests":
        options["verify"] = secure.cafile
    elif anyone.name == "aiohttp":
        options["ssl"] = trusting
    else:
        options["client"] = anyone.client(verify=trusting)
    return anyone.send(method, url, **options)


def check_places(told, url):
    """All points, or attributes of spans, say where it went."""
    host = "assisters.dev" if url == "https://assisters.dev/api/v1" else "api.assisters.dev"
    assert told
    for one in told:
        assert (one["server.address"], one["server.port"]) == (host, PLACES[url])


async def read(opened):
    await (await opened()).rest()


@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("url", PLACES)
def test_the_api_is_watched_by_its_name_alone(api, memory, anyone, secure, url):
    api.answers("internal_error", "ok")

    with memory.tracer_provider.get_tracer("app").start_as_current_span("work"):
        for _ in range(2):
            send(anyone, "POST", f"{url}/embeddings", secure, json=BODY)

    metrics = memory.collect()
    for name in (DURATION, ERRORS, RETRIES, LIMIT):
        check_places(metrics[name], url)
    assert len(api.requests) == len(memory.attempts()) == 2
    failed, again = memory.attempts()
    assert {span.name for span in (failed, again)} == {"POST /v1/embeddings"}
    assert again.attributes["assisters.retry.reason"] == "internal_error"
    assert [link.context for link in again.links] == [failed.context]


@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("url", PLACES)
@pytest.mark.parametrize("sdk", UNSTREAMED, ids=str)
def test_an_sdk_s_call_and_its_attempts_are_at_one_place(api, memory, sdk, url):
    api.answers("internal_error", headers={"retry-after": "0.01"})
    api.answers(status=200, json={})

    sdk.use(url, read, retries=1)

    call, metrics = memory.call(), memory.collect()
    assert call.attributes["assisters.call.outcome"] == "recovered"
    assert call.attributes["assisters.retry.count"] == 1
    assert {one.parent.span_id for one in memory.attempts()} == {call.context.span_id}
    check_places([call.attributes], url)
    for name in (DURATION, ERRORS, RETRIES, CALL, CALL_ATTEMPTS):
        check_places(metrics[name], url)


@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("url", PLACES)
@pytest.mark.parametrize("streamer", STREAMERS, ids=str)
def test_a_stream_is_at_the_place_of_its_attempt(api, memory, secure, streamer, url):
    api.answers(**STREAM)

    streamer.use(url, read, cafile=secure.cafile)

    (around,) = memory.calls()
    assert around.attributes["assisters.stream.outcome"] == "completed"
    check_places([around.attributes], url)
    metrics = memory.collect()
    for name in (DURATION, FIRST_CHUNK, *([CALL] if streamer.is_call else [])):
        check_places(metrics[name], url)


@pytest.mark.usefixtures("_watched")
def test_the_web_site_beside_the_api_is_not_watched(api, memory, anyone, secure):
    for url in ("https://assisters.dev/pricing", "https://assisters.dev/api/v10/models"):
        send(anyone, "GET", url, secure)

    assert len(api.requests) == 2
    assert memory.spans() == []
    assert memory.points(DURATION) == []


@pytest.mark.parametrize(("scheme", "port"), [("https", 443), ("http", 80)])
@pytest.mark.parametrize("streamer", STREAMERS, ids=str)
def test_a_url_without_a_port_is_at_the_one_of_its_scheme(
    api, memory, secure, streamer, scheme, port
):
    """An SDK's call and the attempt agree that it is the port which is watched, or is not."""
    for watched in (port, 444):
        api.answers(**STREAM)
        with watching(memory, hosts=[f"gateway.example:{watched}"]):
            streamer.use(f"{scheme}://gateway.example/v1", read, cafile=secure.cafile)

    assert len(api.requests) == 2
    assert len(memory.attempts()) == 1
    named = "chat assisters-chat-v1" if streamer.is_call else "assisters.stream"
    assert [span.name for span in memory.calls()] == [named]
