"""The same script, with us and without: the app must not be able to tell."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
import warnings
import weakref

import pytest

import assisters_otel
from assisters_otel.resends import failed_attempts
from assisters_otel.testing import FakeApi
from callers import CALLERS
from memory import Memory
from sizes import shared, sized

KIB = 1024
SLACK_S = 10  # on a busy machine everything takes longer
PATIENCE_S = 1  # with a server that says nothing; the head of an answer takes less on any machine

ANSWERS = {
    "an envelope": {"code": "rate_limit_exceeded"},
    "a success": {},
    "a gzipped envelope": {"code": "invalid_model", "gzip": True},
    "a chunked envelope": {"code": "invalid_model", "chunked": True},
    "a page of a proxy": {"status": 502, "body": "<html>no</html>", "content_type": "text/html"},
    "an empty body": {"status": 500, "body": b""},
    "half a document": {"status": 400, "body": b'{"error": {"mess'},
    "an array": {"status": 400, "json": [1, 2]},
    "a body just within the limit": {"status": 500, "body": b"x" * 64 * KIB},
    "a body beyond the limit": {"status": 500, "body": b"x" * 65 * KIB},
    "a huge chunked body": {"status": 500, "size": 300 * KIB, "chunked": True},
    "a huge gzipped body": {"status": 500, "size": 300 * KIB, "gzip": True},
    "a body that breaks off": {"code": "internal_error", "fault": "truncate"},
    "a huge body that breaks off": {"status": 500, "size": 300 * KIB, "fault": "truncate"},
    "a success that breaks off": {"status": 200, "json": {"a": "b" * 99}, "fault": "truncate"},
    "a body that stalls": {"code": "internal_error", "fault": "stall"},
    "a success that stalls": {"status": 200, "json": {"a": "b" * 99}, "fault": "stall"},
    "no answer": {"fault": "drop"},
    "no http": {"fault": "garbage"},
    "silence": {"fault": "silence"},
    "a broken gzip": {
        "status": 400,
        "body": b"\x1f\x8bnot gzip",
        "headers": {"content-encoding": "gzip"},
    },
    "an unknown encoding": {
        "status": 400,
        "body": b"{}",
        "headers": {"content-encoding": "snappy"},
    },
    "a failed event stream": {
        "status": 500,
        "body": b"data: {}\n\n",
        "content_type": "text/event-stream",
    },
}
SLOW = {"a body that stalls", "a success that stalls", "silence"}
HOWS = ("read", "iter_raw", "iter_bytes", "iter_lines", "first iter_raw", "unread", "request")


def observed(caller, url, how, timeout_s):
    """Everything that an app can see of one response, or of the exception in its place."""

    async def script(at):
        seen, counted = [], True
        try:
            if how == "request":
                response = await at.request("GET", url)
                seen += [response.content, response.text]
            else:
                response = await at.open("GET", url)
                seen.append(state(response))
                if how == "read":
                    seen.append(await at.read(response))
                elif how.startswith("first "):
                    seen.append(len(await at.first(response, how[6:]) or b"") > 0)
                    counted = False  # it depends on what has arrived
                elif how.startswith("iter"):
                    chunks = await at.chunks(response, how)
                    seen.append(type(chunks[0])().join(chunks) if chunks else None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
            cause = type(error.__cause__).__name__
            seen += [type(error).__name__, str(error), cause]
            if not hasattr(error, "request"):
                seen.append("no request")
        else:
            seen.append(state(response, counted=counted))
        finally:
            if "response" in locals():
                await at.close(response)
                seen.append(state(response, counted=counted))
        # Whether the connection can be used again.
        after = await at.request("GET", url, timeout=30)
        return [*seen, after.status_code]

    options = {"limits": caller.module.Limits(max_connections=1), "timeout": timeout_s}
    return caller.use(caller.client(**options), script)


def state(response, *, counted=True):
    try:
        elapsed = response.elapsed.total_seconds() >= 0
    except RuntimeError as error:
        elapsed = str(error)
    headers = {
        name: value
        for name, value in response.headers.items()
        if name not in {"date", "x-processing-time-ms"} and "ratelimit" not in name
    }
    return (
        response.status_code,
        headers,
        elapsed,
        response.num_bytes_downloaded if counted else None,
        response.is_closed,
        response.is_stream_consumed,
        sorted(response.extensions),
        response.http_version,
        sorted(response.request.headers),
        sorted(response.request.extensions),
    )


@pytest.mark.sampled
@pytest.mark.parametrize("how", HOWS)
def test_the_app_cannot_tell_that_we_are_there(api, caller, how, memory):
    def run(name):
        answer = ANSWERS[name]
        api.reset()
        connections = api.connections
        api.answers(**{"request_id": "req_1", **answer})
        # trio warns of a generator that was not exhausted, if it is collected in its loop.
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            timeout_s = PATIENCE_S if name in SLOW else 30
            seen = observed(caller, api.url + "/models", how, timeout_s)
            if "trio" in caller.name:
                gc.collect()
        return seen, api.connections - connections, len(warned)

    some = shared(ANSWERS, HOWS.index(how) + CALLERS.index(caller), 2)
    answers = [name for name in some if name not in SLOW or how in {"read", "request"}]
    without = {name: run(name) for name in answers}
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ):
        for name in answers:
            seen, connections, warned = run(name)
            assert seen == without[name][0], name
            assert connections <= without[name][1], name
            # httpx does not close its inner generators; a body of unknown length that is
            # longer than the limit leaves them half read, which trio warns of. They are
            # closed by the response's close all the same.
            if name != "a huge chunked body":
                assert warned <= without[name][2], name

    assert len(memory.attempts()) == 2 * len(answers)
    errors = memory.collect()["assisters.client.errors"]
    fine = sum("a success" in name for name in answers)
    assert sum(point["value"] for point in errors) == len(answers) - fine


@pytest.mark.usefixtures("telemetry")
def test_a_failed_answer_s_headers_wait_no_longer_than_the_read_timeout(api, caller):
    api.answers("internal_error", fault="stall")

    async def script(at):
        started = time.perf_counter()
        response = await at.open("GET", api.url + "/models")
        waited = time.perf_counter() - started
        assert response.status_code == 500
        with pytest.raises(caller.module.ReadTimeout):
            await at.read(response)
        await at.close(response)
        return waited

    assert caller.use(caller.client(timeout=0.5), script) < 0.5 + SLACK_S


@pytest.mark.usefixtures("telemetry")
def test_a_body_that_drips_does_not_hold_the_headers_up_for_ever(api, caller):
    # Ten times over, the next piece is there before the caller's time is up.
    api.answers("internal_error", body=[b"x"] * 30, chunk_delay_s=0.05)

    async def script(at):
        started = time.perf_counter()
        response = await at.open("GET", api.url + "/models")
        waited = time.perf_counter() - started
        body = await at.read(response)
        assert len(body) == 30
        return waited, time.perf_counter() - started

    waited, whole = caller.use(caller.client(timeout=0.5), script)
    assert waited < whole


@pytest.mark.usefixtures("telemetry")
def test_a_success_is_never_read_ahead(api, caller):
    api.answers(status=200, json={"a": "b" * 99}, fault="stall")

    async def script(at):
        started = time.perf_counter()
        response = await at.open("GET", api.url + "/models")
        assert time.perf_counter() - started < 30  # it would wait for a minute
        await at.close(response)

    caller.use(caller.client(timeout=60), script)


@pytest.mark.usefixtures("telemetry")
def test_an_event_stream_is_never_read_ahead_though_it_failed(api, memory, caller):
    api.answers(
        status=500, body=b"data: {}\n\n" * 9, content_type="text/event-stream", fault="stall"
    )

    async def script(at):
        started = time.perf_counter()
        response = await at.open("GET", api.url + "/chat/completions")
        assert time.perf_counter() - started < 30  # it would wait for a minute
        await at.close(response)

    caller.use(caller.client(timeout=60), script)
    assert memory.attempt().attributes["error.type"] == "500"


@pytest.mark.usefixtures("telemetry")
def test_no_more_than_the_limit_is_held(api, caller, monkeypatch):
    held = []
    monkeypatch.setattr(
        "assisters_otel.recording.recorder._envelope", lambda body, _: held.append(len(body))
    )
    api.answers(status=500, size=2000 * KIB, chunked=True)

    caller.send("GET", api.url + "/models")

    assert 0 < held[0] < 200 * KIB  # what came in one read beyond 64 KiB is in hand already


@pytest.mark.usefixtures("telemetry")
def test_a_bomb_is_not_unpacked(api, memory, caller):
    import zlib

    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress(b"x" * 20_000 * KIB) + packer.flush()
    api.answers(status=400, body=bomb, headers={"content-encoding": "gzip"})

    async def script(at):
        response = await at.open("GET", api.url + "/models")
        await at.close(response)

    caller.use(caller.client(), script)
    assert memory.attempt().attributes["error.type"] == "400"


async def cancelled_in_body(get, url):
    """Send, and give up once the headers are there and what is waited for is the body."""
    begun = asyncio.Event()

    async def trace(event, _info):
        if event == "http11.receive_response_body.started":
            begun.set()

    task = asyncio.ensure_future(get(url, extensions={"trace": trace}))
    await begun.wait()
    await asyncio.sleep(0.05)  # the beginning of a body is read, and then there is nothing more
    task.cancel()
    return await task


@pytest.mark.usefixtures("telemetry")
def test_a_cancellation_while_the_body_is_read_ahead_is_the_send_s(api, memory):
    import httpx

    api.answers("internal_error", fault="stall")

    async def impatient():
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            with pytest.raises(asyncio.CancelledError):
                await cancelled_in_body(client.get, api.url + "/models")
            pool = client._transport._pool
            assert not pool.connections
            return (await client.get(api.url + "/models")).status_code

    assert asyncio.run(impatient()) == 200
    first, _ = memory.attempts()
    assert first.attributes["error.type"] == "500"
    assert memory.points("assisters.client.errors")[0]["value"] == 1


@pytest.mark.usefixtures("telemetry")
def test_a_failed_response_leaves_no_reference_cycle(api, caller):
    faults = [None, "truncate"]
    if sys.version_info >= (3, 13):
        faults.pop()  # an exception's frames know their callers there, and those know the body
    for fault in faults:
        api.answers("internal_error", fault=fault)

        async def script(at):
            response = await at.open("GET", api.url + "/models")
            stream = weakref.ref(response.stream._stream)
            await at.close(response)
            response.stream = None  # httpx's own cycle: response -> stream -> response
            return stream

        gc.collect()
        gc.disable()
        try:
            assert caller.use(caller.client(), script)() is None
        finally:
            gc.enable()


def test_memory_is_flat_over_many_failures(api, monkeypatch):
    """Distinct ids, params, codes and paths leave a bounded, small record."""
    import tracemalloc

    import httpx

    loops = sized(1000)
    monkeypatch.setattr(
        failed_attempts, "MAX_ENTRIES", loops // 2
    )  # full before the measuring begins
    memory = Memory()
    transport = httpx.HTTPTransport()
    count = iter(range(10**9))

    with assisters_otel.init(
        hosts=[api.url],
        meter_provider=memory.meter_provider,
        tracer_provider=memory.tracer_provider,
    ):

        def some():
            with httpx.Client(transport=transport, trust_env=False) as client:
                for _ in range(loops):
                    n = next(count)
                    api.answers(status=400, code=f"code_{n}", param=f"p{n}")
                    client.get(f"{api.url}/users/{n}")
            api.reset()
            memory._spans.clear()
            gc.collect()

        some()
        tracemalloc.start()
        some()
        before = tracemalloc.get_traced_memory()[0]
        some()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    memory.shutdown()
    assert grown < 64 * KIB


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("module", ["httpx", "httpx2"])
def test_a_request_that_was_sent_takes_any_header_afterwards(api, memory, module):
    """To look into its headers had settled for ASCII."""
    client = pytest.importorskip(module)
    request = client.Request("GET", api.url + "/models")
    with client.HTTPTransport() as transport:
        transport.handle_request(request).close()

    request.headers["x-name"] = "Böcklin"

    assert request.headers["x-name"] == "Böcklin"
    assert memory.attempt()


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("module", ["httpx", "httpx2"])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_giving_up_while_the_body_is_read_ahead_gives_the_connection_back(api, module, streams):
    """The client has not got the response yet, and cannot close it."""
    client_of = pytest.importorskip(module)

    async def main():
        async with client_of.AsyncClient(trust_env=False) as client:

            async def ask(url, **options):
                if not streams:
                    return await client.get(url, **options)
                async with client.stream("GET", url, **options) as response:
                    return await response.aread()

            for _ in range(3):
                api.answers("internal_error", fault="stall")
                with pytest.raises(asyncio.CancelledError):
                    await cancelled_in_body(ask, api.url + "/models")
            pool = client._transport._pool
            assert not pool.connections
            assert "Requests: 0 active" in repr(pool)
            return (await client.get(api.url + "/models")).status_code

    assert asyncio.run(main()) == 200


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_an_interrupt_while_the_body_is_read_ahead_gives_the_connection_back(api, streams):
    import requests
    from requests.adapters import HTTPAdapter

    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", HTTPAdapter(pool_maxsize=1, pool_block=True))
            api.answers("internal_error", fault="stall")
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(Stop):
                session.get(api.url + "/models", stream=streams, timeout=5)
            signal.setitimer(signal.ITIMER_REAL, 5)  # it had waited for ever
            assert session.get(api.url + "/models", timeout=5).status_code == 200
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("client", ["requests", "aiohttp"])
def test_a_failed_answer_that_drips_waits_no_longer_than_the_caller_s_own_read(
    api, client, chunked
):
    # To its end it would be half a minute.
    api.answers(status=503, size=300, body=[b"x"] * 300, chunk_delay_s=0.1, chunked=chunked)

    if client == "requests":
        import requests

        started_s = time.monotonic()
        requests.get(api.url + "/models", stream=True, timeout=(5, 0.5)).close()
    else:
        import aiohttp

        async def get():
            timeout = aiohttp.ClientTimeout(sock_read=0.5)
            async with aiohttp.request("GET", api.url + "/models", timeout=timeout):
                return

        started_s = time.monotonic()
        asyncio.run(get())

    assert time.monotonic() - started_s < 0.5 + SLACK_S


@pytest.mark.usefixtures("telemetry")
def test_a_failed_stream_that_is_left_in_the_middle_and_dropped_is_given_back(api):
    import httpx

    api.answers(status=500, body=[b"a" * 100, b"b" * 100], chunked=True, chunk_delay_s=0.01)
    with httpx.Client(trust_env=False) as client:
        response = client.send(client.build_request("GET", api.url + "/models"), stream=True)
        for _ in response.iter_raw():
            break
        del response, _
        gc.collect()
        assert not [one for one in client._transport._pool.connections if not one.is_idle()]


def test_what_a_failed_answer_is_read_from_has_its_number(api, telemetry):
    import requests

    api.answers("internal_error")
    with requests.get(api.url + "/models", stream=True, timeout=5) as response:
        assert response.raw._fp.fp.fileno() > 0
    assert telemetry.status().attempts == 1


def contexts(caller, url, *, is_fallback, is_checked):
    """The names of what was met, from the last to the first, where a refusal's body breaks off."""

    async def script(at):
        async def refused():
            response = await at.open("GET", url)
            if not is_checked:
                return await at.read(response)
            try:
                return response.raise_for_status()
            except caller.module.HTTPStatusError:
                return await at.read(response)

        if not is_fallback:
            return await refused()
        try:
            return {}["primary"]
        except KeyError:
            return await refused()

    with pytest.raises(caller.module.RemoteProtocolError) as raised:
        caller.use(caller.client(), script)
    found, error = [], raised.value
    while error is not None:
        found.append(type(error).__qualname__)
        error = error.__context__
        assert len(found) < 20, "a ring"
    return found


@pytest.mark.parametrize("is_fallback", [True, False])
@pytest.mark.parametrize("is_checked", [True, False])
def test_what_a_body_breaks_off_with_has_the_context_that_it_had(
    api, memory, caller, is_fallback, is_checked
):
    how = {"is_fallback": is_fallback, "is_checked": is_checked}
    answer = {"code": "internal_error", "fault": "truncate"}
    with FakeApi() as bare:
        bare.answers(**answer)
        without = contexts(caller, f"{bare.url}/models", **how)
    api.answers(**answer)
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ):
        assert contexts(caller, f"{api.url}/models", **how) == without
    assert ("KeyError" in without) is is_fallback
    assert ("HTTPStatusError" in without) is is_checked
