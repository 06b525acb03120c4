"""The server's life, its connections, and what it writes down."""

from __future__ import annotations

import gc
import inspect
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import anyio
import httpx
import pytest

from assisters_otel.testing import FakeApi


def test_the_url_is_a_loopback_base_url_with_the_picked_port(assisters_api):
    assert assisters_api.host == "127.0.0.1"
    assert assisters_api.port > 0
    assert assisters_api.url == f"http://127.0.0.1:{assisters_api.port}/v1"


def test_before_the_first_start_there_is_no_port():
    with pytest.raises(RuntimeError, match="start"):
        _ = FakeApi().url


@pytest.mark.parametrize("port", [-1, 65536, 80.0, "8080", True, None])
def test_a_port_that_is_none_says_what_to_write(port):
    with pytest.raises(ValueError, match=r"write port=0 for one that is free, or 1 to 65535"):
        FakeApi(port=port)


def test_a_fixed_port_is_known_at_once_and_used():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    api = FakeApi(port=port)
    assert api.port == port
    with api:
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200


def test_a_taken_port_raises_at_once_and_leaves_no_thread(assisters_api):
    threads = threading.active_count()
    with pytest.raises(OSError, match="in use"):
        FakeApi(port=assisters_api.port).start()
    assert threading.active_count() == threads


def test_a_second_start_raises(assisters_api):
    with pytest.raises(RuntimeError, match="already"):
        assisters_api.start()


def test_a_stopped_server_refuses_connections_and_starts_again_on_its_port():
    api = FakeApi().start()
    url = api.url
    api.stop()
    api.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(api.url)
    with api:
        assert api.url == url
        assert httpx.get(f"{url}/models").status_code == 200


def test_nothing_is_left_behind():
    def descriptors():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is all we want

    with FakeApi():  # whatever is opened once and for all
        pass
    threads, open_before = threading.active_count(), descriptors()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for _ in range(3):
        with FakeApi() as api, httpx.Client() as client:
            assert signal.getsignal(signal.SIGINT) is handlers[0]
            assert signal.getsignal(signal.SIGTERM) is handlers[1]
            client.get(f"{api.url}/models")
    gc.collect()  # what was not closed would warn here, and warnings are errors
    assert threading.active_count() == threads
    assert descriptors() == open_before


def test_a_client_that_connects_at_the_end_leaves_no_socket():
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(30):  # each third had one
            api = FakeApi().start()
            clients = [socket.create_connection((api.host, api.port)) for _ in range(5)]
            api.stop()
            for client in clients:
                client.close()
        gc.collect()

    assert not warned


@pytest.mark.parametrize("fault", ["stall", "silence", None])
def test_stopping_is_quick_although_a_connection_is_held(fault):
    with FakeApi() as api:
        api.answers("model_overloaded", fault=fault, delay_s=0 if fault else 60)
        with socket.create_connection((api.host, api.port)) as client:
            client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            while not api.requests:
                time.sleep(0.001)
            began_s = time.perf_counter()
            api.stop()
            assert time.perf_counter() - began_s < 30  # it would wait for a minute


def test_stopping_is_quick_although_a_huge_answer_is_not_read():
    with FakeApi() as api:
        api.answers(size=50_000_000)
        with socket.create_connection((api.host, api.port)) as client:
            client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            began_s = time.perf_counter()
            api.stop()
            assert time.perf_counter() - began_s < 30  # it would wait for ever


def test_a_client_that_leaves_within_its_request_is_not_in_the_record(assisters_api):
    with socket.create_connection((assisters_api.host, assisters_api.port)) as client:
        client.sendall(b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        while not assisters_api.connections:
            time.sleep(0.001)
    assert httpx.get(f"{assisters_api.url}/models").status_code == 200
    assert [request.path for request in assisters_api.requests] == ["/v1/models"]


def test_the_apps_logging_is_left_as_it_is_and_nothing_is_printed(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    mine = logging.NullHandler()
    access = logging.getLogger("uvicorn.access")
    access.addHandler(mine)
    try:
        with FakeApi() as api:
            for fault in ("drop", "garbage", "truncate"):
                api.answers(fault=fault)
                with pytest.raises(httpx.RemoteProtocolError):
                    httpx.get(f"{api.url}/models")
            httpx.get(f"{api.url}/models")
        assert access.handlers == [mine]
        assert access.propagate
    finally:
        access.removeHandler(mine)
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
    assert capfd.readouterr() == ("", "")


def test_one_client_needs_one_connection_for_many_requests(assisters_api):
    assert assisters_api.connections == 0
    assisters_api.answers("rate_limit_exceeded", "internal_error", "ok")
    with httpx.Client() as client:
        statuses = [client.get(f"{assisters_api.url}/models").status_code for _ in range(4)]
    assert statuses == [429, 500, 200, 200]
    assert assisters_api.connections == 1
    httpx.get(f"{assisters_api.url}/models")
    assert assisters_api.connections == 2


def test_a_body_does_not_wait_behind_its_headers(assisters_api):
    with httpx.Client(base_url=assisters_api.url) as client:
        client.get("/models")
        taken_s = []
        for _ in range(20):
            began_s = time.perf_counter()
            client.get("/models")
            taken_s.append(time.perf_counter() - began_s)
    assert min(taken_s) < 0.04  # the system's delay of an acknowledgement


def test_a_request_is_recorded_as_it_came(assisters_api):
    httpx.post(
        f"{assisters_api.url}/models/a%20b?x=1&y=%20",
        content=b"\x00body",
        headers=[("X-Twice", "a"), ("X-Twice", "b"), ("Authorization", "Bearer ask_x")],
    )
    (request,) = assisters_api.requests
    assert (request.method, request.path) == ("POST", "/v1/models/a b")
    assert request.query == "x=1&y=%20"
    assert request.headers["x-twice"] == "a, b"
    assert request.headers["authorization"] == "Bearer ask_x"
    assert request.body == b"\x00body"
    with pytest.raises(FrozenInstanceError):
        request.body = b""


def test_the_list_of_requests_is_the_callers_own(assisters_api):
    httpx.get(f"{assisters_api.url}/models")
    assisters_api.requests.clear()
    assert len(assisters_api.requests) == 1


def test_reset_forgets_script_and_requests(assisters_api):
    assisters_api.answers("internal_error", times=9)
    assert httpx.get(f"{assisters_api.url}/models").status_code == 500
    assisters_api.reset()
    assert assisters_api.requests == []
    assert httpx.get(f"{assisters_api.url}/models").status_code == 200


def test_fifty_requests_at_once_are_all_answered_and_share_out_the_script(assisters_api):
    assisters_api.answers("rate_limit_exceeded", "internal_error", times=10)
    ready = threading.Barrier(50)

    def ask(number):
        ready.wait()
        return httpx.post(f"{assisters_api.url}/search", json={"query": str(number)})

    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(ask, range(50)))
    statuses = [response.status_code for response in responses]
    assert [statuses.count(status) for status in (429, 500, 200)] == [10, 10, 30]
    assert len({response.headers["x-request-id"] for response in responses}) == 50
    assert len(assisters_api.requests) == 50


def test_fifty_tasks_at_once_are_all_answered(assisters_api):
    async def main():
        async with httpx.AsyncClient() as client, anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask, client)

    async def ask(client):
        statuses.append((await client.get(f"{assisters_api.url}/models")).status_code)

    statuses = []
    assisters_api.answers(delay_s=0.05, times=50)
    anyio.run(main)
    assert statuses == [200] * 50


def test_it_starts_and_stops_inside_a_running_event_loop():
    async def main():
        with FakeApi() as api:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{api.url}/models")).status_code

    assert anyio.run(main) == 200


def test_a_process_that_never_stops_it_ends_all_the_same():
    code = "from assisters_otel.testing import FakeApi; print(FakeApi().start().url)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.startswith("http://127.0.0.1:")
    assert done.stderr == ""


def test_what_it_can_answer_is_in_its_own_documentation():
    assert "documented error code" in (FakeApi.answers.__doc__ or "")
    assert list(inspect.signature(FakeApi().answers).parameters)[:2] == ["codes", "status"]


def test_its_repr_says_where_it_is():
    with FakeApi() as api:
        assert repr(api) == f"<FakeApi on {api.url}>"
    assert repr(api) == "<FakeApi not started>"
