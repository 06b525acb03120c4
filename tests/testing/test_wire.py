"""The faults, as a client and as a bare socket meet them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import httpx
import hypercorn.asyncio
import hypercorn.config
import pytest

from assisters_otel.testing import FakeApi


def ask(api, path="/models"):
    """Send a GET over a bare socket; give all bytes until the server closes or is silent."""
    with socket.create_connection((api.host, api.port), timeout=0.3) as client:
        client.sendall(f"GET /v1{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        data = b""
        try:
            while chunk := client.recv(65536):
                data += chunk
        except TimeoutError:
            return data, "silent"
        return data, "closed"


def test_a_drop_closes_before_the_first_byte(assisters_api):
    assisters_api.answers(fault="drop")
    assert ask(assisters_api) == (b"", "closed")
    assert len(assisters_api.requests) == 1


def test_a_drop_is_met_on_a_connection_in_use(assisters_api):
    assisters_api.answers("ok")
    assisters_api.answers(fault="drop")
    with httpx.Client(base_url=assisters_api.url) as client:
        assert client.get("/models").status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/models")
        assert client.get("/models").status_code == 200
    assert assisters_api.connections == 2


def test_garbage_is_no_http(assisters_api):
    assisters_api.answers(fault="garbage")
    data, end = ask(assisters_api)
    assert not data.startswith(b"HTTP/")
    assert data
    assert end == "closed"


def test_garbage_can_be_the_bytes_of_your_choice(assisters_api):
    raw = b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nmore than two"
    assisters_api.answers(fault="garbage", body=raw)
    assert ask(assisters_api) == (raw, "closed")


def test_silence_never_answers(assisters_api):
    assisters_api.answers(fault="silence")
    assert ask(assisters_api) == (b"", "silent")
    assisters_api.answers(fault="silence")
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{assisters_api.url}/models", timeout=httpx.Timeout(30, read=0.1))


def test_a_stall_sends_headers_and_half_the_body(assisters_api):
    assisters_api.answers("model_overloaded", fault="stall", size=1000)
    data, end = ask(assisters_api)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"content-length: 1000" in head
    assert len(body) == 500
    assert end == "silent"


def test_a_truncated_body_is_shorter_than_announced(assisters_api):
    assisters_api.answers(fault="truncate", body=b"0123456789")
    data, end = ask(assisters_api)
    assert b"content-length: 10" in data
    assert data.endswith(b"\r\n\r\n01234")
    assert end == "closed"
    assisters_api.answers("invalid_model", fault="truncate")
    with httpx.stream("GET", f"{assisters_api.url}/models") as response:
        assert response.status_code == 400
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()


def test_of_an_empty_body_a_byte_is_missing(assisters_api):
    assisters_api.answers(fault="truncate", body=b"")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{assisters_api.url}/models")


def test_a_truncated_stream_ends_within_its_events(assisters_api):
    assisters_api.answers(fault="truncate")
    data, end = ask(assisters_api, "/agent/stream")
    assert b"transfer-encoding: chunked" in data.lower()
    assert data.count(b"data: ") == 1
    assert not data.endswith(b"0\r\n\r\n")
    assert end == "closed"


def test_a_huge_body_can_be_truncated(assisters_api):
    assisters_api.answers("internal_error", fault="truncate", size=4_000_000)
    with httpx.stream("GET", f"{assisters_api.url}/models") as response:
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
        assert response.num_bytes_downloaded == 2_000_000


@pytest.mark.parametrize("slow", [{"delay_s": 60}, {"chunk_delay_s": 60}, {"fault": "stall"}])
def test_a_client_that_leaves_ends_the_answer(assisters_api, slow):
    assisters_api.answers(**slow)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{assisters_api.url}/models", timeout=httpx.Timeout(30, read=0.1))
    assert httpx.get(f"{assisters_api.url}/models").status_code == 200


def test_events_come_one_in_a_chunk_with_the_pause_between_them(assisters_api):
    assisters_api.answers(chunk_delay_s=0.03)
    body = {"stream": True, "messages": []}
    chunks, times = [], []
    url = f"{assisters_api.url}/chat/completions"
    with httpx.stream("POST", url, json=body) as response:
        for chunk in response.iter_raw():
            chunks.append(chunk)
            times.append(time.perf_counter())
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks)
    assert chunks[-1] == b"data: [DONE]\n\n"
    assert times[-1] - times[0] >= 0.03 * (len(chunks) - 1) * 0.9


def test_a_stream_without_a_last_blank_line_keeps_its_last_bytes(assisters_api):
    body = 'data: {"a": 1}\n\ndata: {"b"'
    assisters_api.answers(body=body, content_type="text/event-stream", times=2)
    assert httpx.get(f"{assisters_api.url}/agent/stream").text == body
    assisters_api.reset()
    assisters_api.answers(body="", content_type="text/event-stream")
    assert httpx.get(f"{assisters_api.url}/agent/stream").text == ""


@pytest.fixture
def http2_api():
    """Run `FakeApi.app` under hypercorn, never started; gives the API and its URL."""
    api = FakeApi()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = hypercorn.config.Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    loop = asyncio.new_event_loop()
    over = asyncio.Event()
    thread = threading.Thread(
        target=loop.run_until_complete,
        args=[hypercorn.asyncio.serve(api.app, config, shutdown_trigger=over.wait)],
    )
    thread.start()
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.01)
    yield api, f"http://127.0.0.1:{port}/v1"
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_the_app_answers_over_http2_under_another_server(http2_api):
    api, url = http2_api
    api.answers("rate_limit_exceeded", delay_s=0.05)
    with httpx.Client(http1=False, http2=True) as client:
        failed = client.get(f"{url}/models")
        fine = client.get(f"{url}/models")
    assert failed.http_version == fine.http_version == "HTTP/2"
    assert (failed.status_code, failed.headers["retry-after"]) == (429, "1")
    assert failed.json()["error"]["code"] == "rate_limit_exceeded"
    assert fine.status_code == 200
    assert len(api.requests) == 2


def test_a_drop_under_another_server_is_an_exception_of_the_app(http2_api):
    api, url = http2_api
    api.answers(fault="drop")
    with httpx.Client(http1=False, http2=True) as client:
        assert client.get(f"{url}/models").status_code == 500
